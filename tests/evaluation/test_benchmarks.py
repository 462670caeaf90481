"""Benchmarks on local files, against the harness itself and against independent code."""

import json
import math
import os
import random
from pathlib import Path

import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.benchmark_files import LocalSet, read_set
from reprise.errors import UserError
from reprise.evaluation import model as evaluated
from reprise.evaluation.benchmarks import answer_matching as answers
from reprise.evaluation.benchmarks import code_execution as programs
from reprise.evaluation.benchmarks import harness
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS
from reprise.evaluation.benchmarks.external import check_entries
from reprise.evaluation.benchmarks.icl_probe import QUESTIONS_OF_A_KIND, probe_questions
from reprise.evaluation.benchmarks.runner import (
    BenchmarkRunner,
    choose,
    compare_benchmarks,
    group_means,
    summarize,
)
from reprise.evaluation.comparison import judge_rows
from reprise.evaluation.intervals import wilson
from reprise.evaluation.model import EvaluatedModel
from reprise.recipe.evaluation import SUITES, Evaluation, benchmark_folders, expand_benchmarks
from reprise.recipe.model import Model

WORDS = ("river", "mountain", "number", "animal", "stone", "water", "light", "engine", "market", "school", "paper")
HANZI = "山水火木金土日月星云风雨"


def item(name, number, split, subject="all", lang="en", kind="mc", **more):
    dice = random.Random(f"{name}{subject}{number}{split}")
    words = HANZI if lang == "zh" else WORDS
    question = " ".join(dice.choices(words, k=8)) + "?"
    base = {"id": f"{name}/{split}/{number}", "subject": subject, "lang": lang, "type": kind, "question": question}
    if kind == "mc":
        base |= {"choices": [" ".join(dice.sample(list(words), 2)) for _ in range(4)], "answer": dice.choice("ABCD")}
    else:
        base |= {"choices": [], "answer": str(dice.randrange(100))}
    return base | more


def write(folder, **splits):
    folder.mkdir(parents=True)
    for split, items in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in items))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small made-up sets of every benchmark that needs no programs."""
    root = tmp_path_factory.mktemp("sets")
    for name, subjects, lang in (("mmlu", ("anatomy", "virology"), "en"), ("cmmlu", ("agronomy", "anatomy"), "zh"),
                                 ("ceval", ("law", "logic"), "zh")):  # fmt: skip
        made = {
            split: [item(name, number, split, subject, lang) for subject in subjects for number in range(count)]
            for split, count in (("test", 6), ("dev", 5))
        }
        write(root / name, **made)
    exams = {
        "sat-math": "en",
        "aqua-rat": "en",
        "gaokao-mathqa": "zh",
        "gaokao-chemistry": "zh",
        "gaokao-biology": "zh",
    }
    made = {
        split: [
            item("agieval", number, split, subject, lang) for subject, lang in exams.items() for number in range(count)
        ]
        + [
            item("agieval", number, split, "math", kind="gen", solution=r"So it is \boxed{7}.")
            for number in range(count)
        ]
        for split, count in (("test", 4), ("dev", 3))
    }
    made["test"][0]["answer"] = "BC"
    write(root / "agieval", **made)
    for name in ("gsm8k", "asdiv", "mawps"):
        write(root / name, test=[item(name, number, "test", "math", kind="gen") for number in range(3)])
    for name in ("arc-easy", "arc-challenge", "sciq"):
        write(root / name, test=[item(name, number, "test", "science") for number in range(8)])
    kinds = [("physics", "multiple-choice"), ("chemistry", "multiple-choice"), ("biology", "multiple-choice")]
    made = {
        split: [item("scieval", n, split, subject, answer_type=kind) for subject, kind in kinds for n in range(5)]
        + [item("scieval", n, split, "biology", kind="gen", answer_type="judge") | {"answer": said}
           for n, said in enumerate(("yes", "no", "maybe", "yes", "no"))]
        + [item("scieval", 9, split, "chemistry", kind="gen", answer_type="filling")]
        for split in ("test", "dev")
    }  # fmt: skip
    write(root / "scieval", **made)
    return root


def settings(data, *names, **more):
    return Evaluation(benchmarks=list(names), data=str(data), dtype="float32", batch_tokens=1024, **more)


def runner(folder, evaluation, cache, seed=3):
    return BenchmarkRunner(EvaluatedModel(Model(path=str(folder)), evaluation), evaluation, cache=cache, seed=seed)


NO_PROGRAMS = [name for name in SUITES["paper"] if not BENCHMARKS[name].runs_code] + ["icl-probe", "cmmlu-0shot"]
CHOICES = [name for name in NO_PROGRAMS if name not in ("math", "gsm8k", "asdiv", "mawps")]


@pytest.fixture(scope="module")
def lms(tiny_model):
    """Our backend and the harness's own at its defaults, over the same weights."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    return harness.BatchedLM(model, tokenizer, batch_tokens=1024), plain


@pytest.mark.parametrize("name", CHOICES)
def test_scores_are_those_of_the_harness_to_the_last_digit(name, data, lms):
    benchmark = BENCHMARKS[name]
    items = LocalSet([], []) if benchmark.folder is None else read_set(data, benchmark.folder, benchmark.subjects)
    logs = []
    for lm in lms:
        tasks = harness.local_tasks(benchmark, items)
        if name == "icl-probe":
            samples = {"icl_probe": list(range(0, 300, 20))}
            logs.append(harness.run_tasks(lm, tasks, samples))
        else:
            found = evaluate(lm=lm, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0, log_samples=True)
            logs.append(found["samples"])
    for task, log in logs[0].items():
        assert len(log) == len(logs[1][task]) > 0
        for ours, theirs in zip(log, logs[1][task], strict=True):
            assert ours["arguments"] == theirs["arguments"]
            for metric in ours["metrics"]:
                assert ours[metric] == theirs[metric]
            for (one,), (two,) in zip(ours["resps"], theirs["resps"], strict=True):
                assert one[0] == pytest.approx(two[0], rel=1e-4) and one[1] == two[1]


def test_every_benchmark_runs_on_local_files(data, tiny_model, tmp_path):
    fewer = [name for name in NO_PROGRAMS if name not in ("math", "gsm8k", "asdiv", "mawps")]
    run = runner(tiny_model, settings(data, *fewer, "bbh", "humaneval", limit=10), tmp_path)
    rows = {row["benchmark"]: row for row in summarize(run.run())}
    assert set(rows) == set(fewer)
    assert rows["mmlu"]["shots"] == 5 and rows["cmmlu-0shot"]["shots"] == 0
    assert rows["mmlu"]["sampled"] and rows["mmlu"]["questions"] == 10 and rows["mmlu"]["total"] == 12
    assert not rows["sciq"]["sampled"]
    assert sum(part["questions"] for part in rows["scieval"]["parts"].values()) == 10
    assert set(run.absent) == {"bbh", "humaneval"}
    assert "run_code" in run.absent["humaneval"] and "test.jsonl is missing" in run.absent["bbh"]


@pytest.mark.slow
def test_generated_answers_are_those_of_the_harness(data, tmp_path):
    """Eight worked examples and the question fit the tiny model only with few tokens to say."""
    folder = make_model(tmp_path / "long", make_tokenizer(), context=4096)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    lms = [harness.BatchedLM(model, tokenizer, batch_tokens=1024), HFLM(pretrained=model, tokenizer=tokenizer)]
    for name in ("mawps", "math"):
        benchmark = BENCHMARKS[name]
        logs = []
        for lm in lms:
            tasks = harness.local_tasks(benchmark, read_set(data, benchmark.folder, benchmark.subjects))
            for task in tasks.values():
                task.set_config(key="generation_kwargs", value={"max_gen_toks": 8}, update=True)
            logs.append(harness.run_tasks(lm, tasks, {task: [0, 1] for task in tasks}))
        for task, log in logs[0].items():
            assert [entry["resps"] for entry in log] == [entry["resps"] for entry in logs[1][task]]


def test_scieval_equals_independent_code(data, lms, tiny_model):
    """The prompt and the accuracy of our own task, written out once more without the harness."""
    items = read_set(data, "scieval")
    tasks = harness.local_tasks(BENCHMARKS["scieval"], items)
    logs = harness.run_tasks(lms[0], tasks, {name: list(range(len(task.eval_docs))) for name, task in tasks.items()})
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )

    def block(entry, with_answer):
        letters = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", entry["choices"], strict=False))
        return f"{entry['question']}{letters}\nAnswer:" + (f" {entry['answer']}" if with_answer else "")

    checked = 0
    for subject, kind in (("physics", "multiple-choice"), ("biology", "multiple-choice"), ("biology", "judge")):
        chosen = [[entry for entry in part if (entry["subject"], entry["answer_type"]) == (subject, kind)]
                  for part in (items.test, items.dev)]  # fmt: skip
        options = ["A", "B", "C", "D"] if kind == "multiple-choice" else ["yes", "no", "maybe"]
        named = '"A", "B", "C" or "D"' if kind == "multiple-choice" else '"yes", "no" or "maybe"'
        name = f"scieval_{subject}" + ("" if kind == "multiple-choice" else "_judge")
        for entry, logged in zip(chosen[0], logs[name], strict=True):
            examples = [block(example, True) for example in chosen[1]]
            head = f"Answer the question with {named}, without any explanation.\n\n"
            prompt = head + "\n\n".join([*examples, block(entry, False)])
            sums = []
            for option in options:
                ids = tokenizer(f"{prompt} {option}")["input_ids"]
                count = len(ids) - len(tokenizer(prompt)["input_ids"])
                ids = ids[-2049:]
                with torch.no_grad():
                    logs_ = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
                sums.append(
                    sum(float(logs_[len(ids) - 1 - count + k, ids[len(ids) - count + k]]) for k in range(count))
                )
            assert logged["acc"] == float(options[sums.index(max(sums))] == entry["answer"])
            checked += 1
    assert checked == 15


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("18", "She sells 9 eggs. The answer is 18.", True),
        ("18", "The answer is 17.\n\nQ: more 18", False),
        ("1200", "So the answer is $1,200.", True),
        ("0.9166666666666666", "11/12 in all. The answer is 0.91667", True),
        ("0.5", "The answer is 1/2.", True),
        ("-3", "it falls by 3. The answer is -3", True),
        ("3", "no numbers here", False),
        ("3", "first 3 then 4", False),
        ("Purple", "The answer is purple.", True),
        ("Mrs. Hilt", "The answer is Mrs. Hilt", True),
        ("Yes", "The answer is no.", False),
        ("3:30 p.m.", "The answer is 3:30 p.m.", True),
    ],
)
def test_word_problem_answers(answer, text, right):
    assert answers.word_problem_is_right(answer, text) == right


def test_mawps_score_equals_independent_code(data):
    """Exact fractions and a reader of its own, over generations of many shapes."""
    from fractions import Fraction

    dice = random.Random(0)
    shapes = ["It takes 3 steps. The answer is {}.", "{}", "So the answer is: {} apples.\n\nQ: 99"]
    for _ in range(300):
        gold = dice.choice([str(dice.randrange(1000)), f"{dice.randrange(100)}.{dice.randrange(1, 100)}"])
        said = dice.choice([gold, str(dice.randrange(1000)), f"{float(gold):,.3f}", f"${gold}", ""])
        text = dice.choice(shapes).format(said)
        line = text.split("answer is")[-1].split("\n")[0] if "answer is" in text else text
        parts = [part.strip(".,$:").replace(",", "") for part in line.split()]
        numbers = [Fraction(part) for part in parts if part.replace(".", "").isdigit()]
        limit = Fraction(1, 10**4) * max(1, abs(Fraction(gold)))
        expected = bool(numbers) and abs(numbers[-1] - Fraction(gold)) <= limit
        assert answers.word_problem_is_right(gold, text) == expected, (gold, text)


def test_programs_are_judged_by_their_tests():
    good, bad = "    return a + b\n", "    return a - b\n"
    doc = {"prompt": "def add(a, b):\n", "test": "def check(f):\n    assert f(2, 3) == 5\n", "entry_point": "add"}
    assert [programs.humaneval_results(doc, [body])["acc"] for body in (good, bad)] == [1.0, 0.0]
    tests = {"test_list": ["assert add(1, 1) == 2", "assert add(0, 0) == 0"]}
    assert programs.mbpp_results(tests, ["def add(a, b):\n" + good]) == {"acc": 1.0}
    assert programs.mbpp_results(tests, ["def add(a, b)"]) == {"acc": 0.0}
    needs = {"test_list": ["assert add(one, 1) == 2"], "test_setup_code": "one = add(1, 0)"}
    assert programs.mbpp_results(needs, ["def add(a, b):\n" + good]) == {"acc": 1.0}


def test_probe_can_be_solved_from_its_prompt_alone():
    questions = probe_questions()
    assert questions == probe_questions() and len(questions) == 3 * QUESTIONS_OF_A_KIND
    for question in questions:
        right = question["choices"][question["gold"]]
        if question["kind"] == "recall":
            thing = question["query"].split()[-3]
            assert f"{thing} is called {right}." in question["query"]
        elif question["kind"] == "cycle":
            words = question["query"].split()
            assert words[len(words) % 3] == right and words[0] != words[1]
        else:
            asked = question["query"].split("\n")[-1]
            assert asked not in question["query"].split("\n")[:-1] and question["query"].count(right) == 6
        assert len(set(question["choices"])) == len(question["choices"])
    golds = [question["gold"] for question in questions if question["kind"] == "rule"]
    assert 30 < sum(golds) < 70


def test_sample_is_the_same_for_every_model_and_spread_over_tasks():
    total = {f"task{number}": 50 for number in range(20)}
    first = choose(total, 100, 17)
    assert first == choose(total, 100, 17) != choose(total, 100, 18)
    assert sum(map(len, first.values())) == 100
    assert sum(bool(numbers) for numbers in first.values()) > 15
    assert choose(total, 0, 17) == {name: list(range(50)) for name in total} == choose(total, 1000, 17)


def test_wilson_interval_covers():
    for share, count in ((0.5, 40), (0.02, 100), (0.95, 60)):
        hits = 0.0
        for right in range(count + 1):
            low, high = wilson(right / count, count)
            chance = math.comb(count, right) * share**right * (1 - share) ** (count - right)
            hits += chance * (low <= share <= high)
        assert 0.92 < hits < 0.99
    for count in range(1, 200):
        assert wilson(0.0, count)[0] == 0.0 and wilson(1.0, count)[1] == 1.0


def test_finished_benchmarks_are_not_run_again(data, tiny_model, tmp_path, monkeypatch):
    evaluation = settings(data, "sciq", "arc-easy")
    run_tasks = harness.run_tasks
    asked = []

    def dies_at_the_second(lm, tasks, samples):
        asked.append(next(iter(tasks)))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run_tasks(lm, tasks, samples)

    monkeypatch.setattr(harness, "run_tasks", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        runner(tiny_model, evaluation, tmp_path).run()
    first = runner(tiny_model, evaluation, tmp_path).run()
    assert asked == ["sciq", "arc_easy", "arc_easy"]
    monkeypatch.setattr(evaluated, "load_model", lambda *_: pytest.fail("the model was loaded again"))
    assert runner(tiny_model, evaluation, tmp_path).run() == first


def test_changed_questions_are_asked_again(data, tiny_model, tmp_path):
    evaluation = settings(data, "sciq")
    before = runner(tiny_model, evaluation, tmp_path / "cache").run()
    items = [json.loads(line) for line in (data / "sciq" / "test.jsonl").read_text().splitlines()]
    write(tmp_path / "other" / "sciq", test=items[:5])
    after = runner(tiny_model, settings(tmp_path / "other", "sciq"), tmp_path / "cache").run()
    assert (before[0].total, after[0].total) == (8, 5)


def test_comparison_is_paired_by_question(data, tiny_model, tmp_path):
    other = make_model(tmp_path / "other", make_tokenizer(), seed=9)
    evaluation = settings(data, "arc-easy", "arc-challenge", "scieval", limit=7)
    sides = [runner(folder, evaluation, tmp_path / "cache").run() for folder in (tiny_model, other)]
    table = compare_benchmarks(*sides, evaluation)
    judge_rows([], table)
    rows = [compared.row for compared in table]
    for row, one, two in zip(rows, *sides, strict=True):
        assert one.scores.keys() == two.scores.keys() and len(one.scores) == row["questions"] == 7
        assert row["change"] == pytest.approx(two.score - one.score)
        assert row["tolerance"] == 0.01 and row["verdict"] in ("gained", "kept", "lost", "undecided")
        assert row["before_ci"][0] <= row["before"] <= row["before_ci"][1]
    means = group_means({row["benchmark"]: row["before"] for row in rows})
    assert means == {"ARC": (rows[0]["before"] + rows[1]["before"]) / 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"question": 3, "answer": "A"}', "`question` is not a text"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "C"}', "no letter of the choices"),
        ('{"question": "q", "choices": "ab", "answer": "A"}', "not a list of texts"),
    ],
)
def test_broken_question_names_its_line(tmp_path, line, message):
    (tmp_path / "sciq").mkdir()
    (tmp_path / "sciq" / "test.jsonl").write_text(
        '{"question": "q", "choices": ["a"], "answer": "A"}\n\n' + line + "\n"
    )
    with pytest.raises(UserError, match=rf"test.jsonl:3: .*{message}"):
        read_set(tmp_path, "sciq")


def test_suites_and_folders(tmp_path):
    assert (
        expand_benchmarks(["quick", "mmlu", "math"])[-1] == "math" and len(expand_benchmarks(["quick", "quick"])) == 5
    )
    assert benchmark_folders(["sat-math", "math", "icl-probe", "cmmlu-0shot", "cmmlu"]) == ["agieval", "cmmlu"]
    assert set(expand_benchmarks(list(SUITES))) == set(BENCHMARKS)
    (tmp_path / "sciq").mkdir()
    assert Evaluation(benchmarks=["sciq", "ceval", "icl-probe"], data=str(tmp_path)).question_folders() == ["sciq"]
    assert Evaluation(benchmarks=["sciq", "icl-probe"]).question_folders() == ["sciq"]
    (finding,) = check_entries(["cmlu", "sciq"])
    assert "did you mean 'cmmlu'" in str(finding)


def test_prompts_of_programs_are_those_of_the_harness(tmp_path):
    """The harness's own configuration cannot be loaded offline, so its text is compared."""
    import lm_eval
    import yaml
    from jinja2 import Template

    tests = [f"assert f({n}) == {n}" for n in range(3)]
    task = {"question": "Say it back.", "answer": "def f(x):\n    return x", "test_list": tests, "choices": []}
    write(tmp_path / "mbpp", test=[task], dev=[task | {"task_id": number} for number in (1, 2, 3, 4)])
    ours = next(iter(harness.local_tasks(BENCHMARKS["mbpp"], read_set(tmp_path, "mbpp")).values()))
    text = (Path(lm_eval.__file__).parent / "tasks" / "mbpp" / "mbpp.yaml").read_text()
    theirs = yaml.load(text.replace("!function ", ""), yaml.SafeLoader)
    doc = {"text": "Say it back.", "code": task["answer"], "test_list": tests}
    assert ours.doc_to_text(doc) == Template(theirs["doc_to_text"], keep_trailing_newline=True).render(**doc)
    assert ours.doc_to_target(doc) == Template(theirs["doc_to_target"]).render(**doc, is_fewshot=True)
    assert ours.config.generation_kwargs["until"] == theirs["generation_kwargs"]["until"]
    assert [example["text"] for example in ours.fewshot_docs()][:1] == ["Say it back."]


class Oracle(LM):
    """Says what it is told; keeps the prompts."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.prompts = answer, []

    def generate_until(self, requests):
        self.prompts += [request.args[0] for request in requests]
        return [self.answer for _ in requests]

    def loglikelihood(self, requests):
        raise AssertionError

    loglikelihood_rolling = loglikelihood


@pytest.mark.parametrize(("said", "score"), [("So the answer is (J).", 1.0), ("The answer is A", 0.0)])
def test_mmlu_pro_from_local_files(tmp_path, said, score):
    questions = [
        item("p", n, "test", "computer science") | {"choices": [f"c{k}" for k in range(10)], "answer": "J"}
        for n in range(3)
    ]
    example = questions[0] | {"question": "Example?", "solution": "It is c9. The answer is (J)."}
    write(tmp_path / "mmlu-pro", test=questions, dev=[example])
    tasks = harness.local_tasks(BENCHMARKS["mmlu-pro"], read_set(tmp_path, "mmlu-pro"))
    lm = Oracle(said)
    logs = harness.run_tasks(lm, tasks, {"mmlu_pro_computer_science": [0, 1, 2]})
    found = harness.ordered(logs["mmlu_pro_computer_science"], "exact_match", "custom-extract")
    assert [value for _, value in found] == [score] * 3
    assert "Example?" in lm.prompts[0] and "Let's think step by step. It is c9." in lm.prompts[0]
    assert lm.prompts[0].index("J. c9") and lm.prompts[0].rstrip().endswith("Answer: Let's think step by step.")


def test_the_harness_writes_nothing_to_the_terminal(data, lms, tmp_path, capfd):
    """Its bars: over the questions, the choices and the generated texts."""
    write(
        tmp_path / "bbh",
        test=[item("b", n, "test", "boolean_expressions", kind="gen") | {"answer": "True"} for n in range(2)],
    )
    sciq, bbh = BENCHMARKS["sciq"], BENCHMARKS["bbh"]
    for benchmark, folder in ((sciq, data), (bbh, tmp_path)):
        tasks = harness.local_tasks(benchmark, read_set(folder, benchmark.folder, benchmark.subjects))
        for task in tasks.values():
            if "until" in (task.get_config("generation_kwargs") or {}):
                task.set_config(key="generation_kwargs", value={"max_gen_toks": 4}, update=True)
        harness.run_tasks(lms[0], tasks, {name: [0, 1] for name in tasks})
    assert capfd.readouterr() == ("", "")


def test_bbh_from_local_files(tmp_path):
    questions = [item("b", n, "test", "boolean_expressions", kind="gen") | {"answer": "True"} for n in range(2)]
    write(tmp_path / "bbh", test=questions)
    tasks = harness.local_tasks(BENCHMARKS["bbh"], read_set(tmp_path, "bbh"))
    lm = Oracle("True")
    logs = harness.run_tasks(lm, tasks, {"bbh_fewshot_boolean_expressions": [0, 1]})
    assert [value for _, value in harness.ordered(logs["bbh_fewshot_boolean_expressions"], "exact_match", "none")] == [
        1,
        1,
    ]
    assert lm.prompts[0].count("Q: ") == 4 and lm.prompts[0].endswith(f"Q: {questions[0]['question']}\nA:")


EVALSETS = Path(os.environ.get("REPRISE_EVALSETS", Path(__file__).parents[2] / ".." / "shared" / "evalsets"))


@pytest.mark.skipif(not EVALSETS.is_dir(), reason="no evaluation sets beside the checkout")
def test_real_sets_have_the_papers_counts():
    counts = {"mmlu": 14042, "cmmlu": 11582, "math": 1000, "gsm8k": 1319, "asdiv": 2305, "mawps": 199, "sat-math": 220,
              "scieval": 1286, "sciq": 1000, "gaokao-mathqa": 348, "gaokao-chemistry": 207, "gaokao-biology": 210,
              "arc-easy": 2376, "arc-challenge": 1172, "aqua-rat": 254}  # fmt: skip
    for name, count in counts.items():
        benchmark = BENCHMARKS[name]
        tasks = harness.local_tasks(benchmark, read_set(EVALSETS, benchmark.folder, benchmark.subjects))
        assert sum(len(task.eval_docs) for task in tasks.values()) == count


@pytest.mark.slow
@pytest.mark.skipif(not EVALSETS.is_dir(), reason="no evaluation sets beside the checkout")
@pytest.mark.parametrize(("name", "tried"), [("humaneval", 40), ("mbpp", 60)])
def test_the_official_solutions_of_real_sets_pass(name, tried):
    """Every few of them, and those whose tests need code of their own."""
    benchmark = BENCHMARKS[name]
    questions = read_set(EVALSETS, name).test
    step = len(questions) // tried
    chosen = [entry for n, entry in enumerate(questions) if n % step == 0 or entry.get("test_setup_code")]
    (part,) = benchmark.parts(LocalSet(chosen, []))
    for entry in chosen:
        judged = part.config["process_results"](part.columns(entry), [entry["answer"]])
        assert judged == {"acc": 1.0}, entry["id"]
