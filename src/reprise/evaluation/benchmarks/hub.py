"""Questions of the benchmarks whose tasks are written here, from the Hugging Face Hub.

The columns are taken from the datasets' cards; no test downloads these sets.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from reprise.benchmark_files import LETTERS, Item, LocalSet
from reprise.math_answers import boxed

Rows = Iterable[dict[str, Any]]


def read_hub(name: str) -> LocalSet:
    """Load the questions of a benchmark in `SOURCES`, in the format of local files."""
    return SOURCES[name]()


def _load(path: str, config: str | None = None, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(path, config, **options)


def _humaneval() -> LocalSet:
    rows: Rows = _load("openai/openai_humaneval", split="test")
    return LocalSet(
        [{"question": row["prompt"], "answer": row["canonical_solution"], **_tests(row)} for row in rows], []
    )


def _mbpp() -> LocalSet:
    dataset = _load("google-research-datasets/mbpp", "full")
    splits = (dataset["test"], dataset["prompt"])
    test, dev = ([_mbpp_item(row) for row in rows] for rows in splits)
    return LocalSet(test, dev)


def _mbpp_item(row: dict[str, Any]) -> Item:
    return {"question": row["text"], "answer": row["code"], **_tests(row)}


def _tests(row: dict[str, Any]) -> Item:
    names = ("test", "entry_point", "test_list", "test_setup_code", "task_id")
    return cast(Item, {name: row[name] for name in names if name in row})


def _mawps() -> LocalSet:
    rows: Rows = _load("MU-NLPC/Calc-mawps", split="test")
    return LocalSet([{"question": row["question"], "answer": str(row["result"])} for row in rows], [])


def _asdiv() -> LocalSet:
    rows: Rows = _load("EleutherAI/asdiv", split="validation")
    return LocalSet(
        [{"question": f"{row['body']} {row['question']}", "answer": row["answer"].split(" (")[0]} for row in rows], []
    )


_MATH = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def _math() -> LocalSet:
    """MATH: all 5,000 questions; the examples are the first training problem of each subject."""
    test: list[Item] = []
    dev: list[Item] = []
    for subject in _MATH:
        dataset = _load("EleutherAI/hendrycks_math", subject)
        test += [_math_item(row) for row in dataset["test"]]
        dev.append(_math_item(dataset["train"][0]))
    return LocalSet(test, dev)


def _math_item(row: dict[str, Any]) -> Item:
    return {"question": row["problem"], "solution": row["solution"], "answer": boxed(row["solution"]) or ""}


def _scieval() -> LocalSet:
    files = {split: f"hf://datasets/OpenDFM/SciEval/scieval-{split}.json" for split in ("valid", "dev")}
    dataset = _load("json", data_files=files)
    return LocalSet(*([_scieval_item(row) for row in dataset[split]] for split in ("valid", "dev")))


_OPTION = re.compile(r"^([A-D])[.:)]\s*(.*)$", re.MULTILINE)


def _scieval_item(row: dict[str, Any]) -> Item:
    """SciEval: the options are removed from the text of the question if all of them can be located there."""
    question = str(row["question"]).removesuffix("Answer:").rstrip()
    item: Item = {"subject": row["category"], "answer_type": row["type"], "answer": str(row["answer"][0])}
    options = list(_OPTION.finditer(question))
    if (
        row["type"] == "multiple-choice"
        and [option[1] for option in options] == list(LETTERS[: len(options)])
        and options
    ):
        return item | {
            "question": question[: options[0].start()].rstrip(),
            "choices": [option[2] for option in options],
        }
    return item | {"question": question, "choices": []}


SOURCES: dict[str, Callable[[], LocalSet]] = {
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "mawps": _mawps,
    "asdiv": _asdiv,
    "math": _math,
    "scieval": _scieval,
}
"""Benchmark -> function that loads its questions; all others are loaded by the harness's tasks."""
