"""Questions in our file format -> the columns that a task of lm-evaluation-harness expects."""

from typing import Any

from reprise.benchmark_files import LETTERS, Item

Columns = dict[str, Any]


def gold(item: Item) -> int:
    """Index of the right choice."""
    return LETTERS.index(item["answer"][0])


def mmlu(item: Item) -> Columns:
    """`mmlu_*`: question, choices, answer as an index."""
    return {"question": item["question"], "choices": item["choices"], "answer": gold(item)}


def cmmlu(item: Item) -> Columns:
    """`cmmlu_*`: Question, A to D, Answer as a letter."""
    return {"Question": item["question"], "Answer": item["answer"]} | dict(zip("ABCD", item["choices"], strict=True))


def ceval(item: Item) -> Columns:
    """`ceval-valid_*`: question, A to D, answer as a letter."""
    return {"question": item["question"], "answer": item["answer"]} | dict(zip("ABCD", item["choices"], strict=True))


def arc(item: Item) -> Columns:
    """`arc_*`: choices with their labels."""
    labels = list(LETTERS[: len(item["choices"])])
    return {
        "question": item["question"],
        "choices": {"text": item["choices"], "label": labels},
        "answerKey": item["answer"],
    }


def sciq(item: Item) -> Columns:
    """`sciq`: three distractors, the right answer, and the paragraph if the file has one."""
    right = gold(item)
    wrong = [choice for index, choice in enumerate(item["choices"]) if index != right]
    names = {f"distractor{nth}": choice for nth, choice in enumerate(wrong, 1)}
    columns = {
        "question": item["question"],
        "correct_answer": item["choices"][right],
        "support": item.get("support") or "",
    }
    return columns | names


def agieval(item: Item) -> Columns:
    """`agieval_*` with choices: the zero-shot wording of AGIEval around the question (its src/dataset_loader.py)."""
    count = len(item["choices"])
    choices = [f"({letter}){choice}" for letter, choice in zip(LETTERS, item["choices"], strict=False)]
    last = LETTERS[count - 1]
    if item.get("lang") == "zh":
        query = f"问题：{item['question']} 选项：{' '.join(choices)}\n答案：从A到{last}, 我们应选择"
    else:
        query = f"Q: {item['question']} Answer Choices: {' '.join(choices)}\nA: Among A through {last}, the answer is"
    return {"query": query, "choices": choices, "gold": [LETTERS.index(letter) for letter in item["answer"]]}


def word_problem(item: Item) -> Columns:
    """Grade-school problems: question and answer."""
    return {"question": item["question"], "answer": item["answer"]}


def competition_math(item: Item) -> Columns:
    """MATH: the solution ends in a boxed answer; examples keep it, questions only need the answer."""
    return {"problem": item["question"], "solution": item.get("solution") or "", "answer": item["answer"]}


def scieval(item: Item) -> Columns:
    """SciEval: its instruction, the question and the letters; yes, no or maybe for judging questions."""
    question = item["question"].removesuffix("Answer:").rstrip()
    if item.get("answer_type") == "judge":
        choices = ["yes", "no", "maybe"]
        right = choices.index(item["answer"].lower())
    else:
        # One question of the official file has its options in its text.
        letters = LETTERS[: len(item["choices"]) or 4]
        question += "".join(f"\n{letter}. {choice}" for letter, choice in zip(letters, item["choices"], strict=False))
        choices, right = list(letters), letters.index(item["answer"])
    return {"query": f"{question}\nAnswer:", "choices": choices, "gold": right}


def bbh(item: Item) -> Columns:
    """`bbh_fewshot_*`: the question and its answer."""
    return {"input": item["question"], "target": item["answer"]}


_THINKS = "A: Let's think step by step. "
"""Beginning of the worked examples in MMLU-Pro's files."""


def mmlu_pro(item: Item) -> Columns:
    """`mmlu_pro_*`: up to ten choices; an example reasons before it answers."""
    reasoning = item.get("solution") or f"The answer is ({item['answer'][0]})."
    return {
        "question": item["question"],
        "options": item["choices"],
        "answer": item["answer"][0],
        "cot_content": f"{_THINKS}{reasoning.removeprefix(_THINKS)}",
        "category": item["subject"].replace("_", " "),
    }


def program(item: Item) -> Columns:
    """HumanEval: the prompt, the tests and the entry point."""
    return {"prompt": item["question"], "test": item["test"], "entry_point": item["entry_point"]}


def small_program(item: Item) -> Columns:
    """MBPP: the task, its three tests with their setup, and a solution for the examples."""
    columns = {"text": item["question"], "code": item["answer"], "test_list": item["test_list"]}
    return columns | {"test_setup_code": item.get("test_setup_code") or ""}


def instructions(item: Item) -> Columns:
    """IFEval: the prompt, and the instructions that are checked by rules."""
    columns = {"key": item["id"], "prompt": item["question"], "instruction_id_list": item["instruction_id_list"]}
    return columns | {"kwargs": item["kwargs"]}
