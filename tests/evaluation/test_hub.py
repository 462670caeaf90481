"""Questions of the Hub: columns of the datasets' cards in, tasks out. Nothing is loaded."""

import datasets
import pytest

from reprise.evaluation.benchmarks import harness, hub
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS
from reprise.evaluation.benchmarks.runner import BenchmarkRunner
from reprise.evaluation.model import EvaluatedModel
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model

TESTS = [f"assert f({n}) == {n}" for n in range(3)]
CHOICES = {"label": ["A", "B", "C", "D"], "text": ["one", "two", "three", "four"]}
MMLU_PRO = [
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health",
    "history", "law", "math", "other", "philosophy", "physics", "psychology",
]  # fmt: skip
ROWS = {
    "openai/openai_humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(g): ...",
            "entry_point": "f",
        }
    ],
    "google-research-datasets/mbpp": [
        {"task_id": 2, "text": "Say it.", "code": "def f(x):\n    return x", "test_list": TESTS}
    ],
    "MU-NLPC/Calc-mawps": [{"id": "mawps__0", "question": "How many are 2 and 3?", "result": "5", "result_float": 5.0}],
    "EleutherAI/asdiv": [{"body": "Seven apples are here.", "question": "How many?", "answer": "7 (apples)"}],
    "EleutherAI/hendrycks_math": [{"problem": "What is 1+1?", "solution": r"It is $\boxed{2}$.", "level": "Level 1"}],
    "json": [
        {
            "id": "1",
            "question": "Which gas?\n\nA. Argon\nB. Neon\nC. Xenon\nD. Radon\n\nAnswer:",
            "answer": ["B"],
            "type": "multiple-choice",
            "category": "chemistry",
        },
        {"id": "2", "question": "Does it help?\nAnswer:", "answer": ["yes"], "type": "judge", "category": "biology"},
        {"id": "3", "question": "It is called ___.", "answer": ["x"], "type": "filling", "category": "physics"},
    ],
    "allenai/ai2_arc": [{"question": "Which?", "choices": CHOICES, "answerKey": "C"}],
    "allenai/sciq": [
        {"question": "What?", "support": " Text.", "correct_answer": "a"}
        | {f"distractor{n}": f"d{n}" for n in (1, 2, 3)}
    ],
    "openai/gsm8k": [{"question": "How many?", "answer": "It is so.\n#### 4"}],
    "hails/agieval-sat-math": [{"query": "Q: 1?", "choices": ["(A)1", "(B)2"], "gold": [0]}],
    "TIGER-Lab/MMLU-Pro": [
        {
            "question": "Which?",
            "options": list("abcdefghij"),
            "answer": "B",
            "answer_index": 1,
            "category": name,
            "cot_content": "A: Let's think step by step. The answer is (B).",
        }
        for name in MMLU_PRO
    ],
}


@pytest.fixture(autouse=True)
def rows_of_the_cards(monkeypatch):
    def load(path, name=None, split=None, **options):
        table = datasets.Dataset.from_list(ROWS[path])
        every = datasets.DatasetDict(dict.fromkeys(("train", "validation", "valid", "test", "dev", "prompt"), table))
        return every[split] if split else every

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize("name", list(hub.SOURCES))
def test_our_own_tasks_take_the_hubs_columns(name):
    items = hub.read_hub(name)
    tasks = harness.local_tasks(BENCHMARKS[name], items)
    for task in tasks.values():
        doc = next(iter(task.eval_docs))
        assert task.doc_to_text(doc).strip() and task.doc_to_target(doc) is not None
        assert BENCHMARKS[name].metric in [entry["metric"] for entry in task.config.metric_list]
    if name == "scieval":
        assert set(tasks) == {"scieval_chemistry", "scieval_biology_judge"}
        assert items.test[0]["choices"] == ["Argon", "Neon", "Xenon", "Radon"]
        text = tasks["scieval_chemistry"].doc_to_text(next(iter(tasks["scieval_chemistry"].eval_docs)))
        assert text == "Which gas?\nA. Argon\nB. Neon\nC. Xenon\nD. Radon\nAnswer:"
    if name == "math":
        assert len(items.test) == 7 == len(items.dev) and items.test[0]["answer"] == "2"


@pytest.mark.parametrize("name", ["arc-easy", "sciq", "gsm8k", "sat-math", "mmlu-pro"])
def test_tasks_of_the_harness_have_the_metric_that_is_read(name):
    benchmark = BENCHMARKS[name]
    tasks = harness.hub_tasks(benchmark)
    assert tasks
    for task in tasks.values():
        assert len(task.eval_docs) == 1
        assert benchmark.metric in [entry["metric"] for entry in task.config.metric_list]
        filters = [entry["name"] for entry in task.config.filter_list or []] or ["none"]
        assert benchmark.filter in filters
        assert task.get_config("num_fewshot") == benchmark.shots


def test_a_set_that_the_hub_refuses_is_named_and_the_others_run(tiny_model, tmp_path, monkeypatch):
    known = datasets.load_dataset

    def load(path, *arguments, **options):
        if path == "allenai/sciq":
            raise ValueError("the dataset is gated\nand more lines")
        return known(path, *arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", load)
    evaluation = Evaluation(benchmarks=["sciq", "arc-easy"], dtype="float32")
    run = BenchmarkRunner(EvaluatedModel(Model(path=str(tiny_model)), evaluation), evaluation, cache=tmp_path, seed=1)
    assert [one.benchmark for one in run.run()] == ["arc-easy"]
    assert "cannot be loaded from the Hub (ValueError: the dataset is gated)" in run.absent["sciq"]


def test_changed_rows_of_the_hub_are_asked_again(tiny_model, tmp_path, monkeypatch):
    """A dataset keeps its name when its rows change."""
    evaluation = Evaluation(benchmarks=["arc-easy"], dtype="float32")
    asked = []
    run_tasks = harness.run_tasks
    monkeypatch.setattr(
        harness, "run_tasks", lambda lm, tasks, chosen: asked.extend(tasks) or run_tasks(lm, tasks, chosen)
    )

    def run():
        model = EvaluatedModel(Model(path=str(tiny_model)), evaluation)
        return BenchmarkRunner(model, evaluation, cache=tmp_path, seed=1).run()

    assert run() == run()
    assert asked == ["arc_easy"]
    question = ROWS["allenai/ai2_arc"][0]
    monkeypatch.setitem(ROWS, "allenai/ai2_arc", [question, question | {"answerKey": "A"}])
    assert [one.total for one in run()] == [2]
    assert asked == ["arc_easy"] * 2
