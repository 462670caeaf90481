"""The studies of the five claims run as their page says, and the page contains what they found and no more."""

import dataclasses
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
import zstandard
from tests.pipeline.conftest import DEMO, passages, tiny_model  # noqa: F401
from tests.pipeline.test_run import reprise

from reprise.recipe import load_recipe
from reprise.study import load_study

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "results"))  # its scripts import each other
STUDIES = sorted((ROOT / "examples" / "studies" / "claims").glob("*.study.yaml"))


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def write():
    return script(ROOT / "docs" / "results" / "write.py")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder of what `make_inputs.py` writes from a corpus of the demo's text."""
    folder = tmp_path_factory.mktemp("claims")
    write_corpus(folder / "corpus")
    make = script(ROOT / "examples" / "studies" / "claims" / "make_inputs.py")
    make.ORDER_BYTES, make.SCORER_BYTES = 8_000, 20_000  # the demo has less text
    make.main([str(folder / "corpus"), str(folder / "inputs")])
    return folder / "inputs"


def write_corpus(folder):
    """The demo's text as files of a corpus; every kind has the same documents under its own name."""
    folder.mkdir()
    for language in ("en", "zh"):
        lines = (DEMO / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
        for part, kind in itertools.product(
            ("train", "valid"), ("web", "encyclopedia", "book", "qa_forum", "math", "paper", "code")
        ):
            chosen = [json.loads(line) for line in (lines[::2] if part == "train" else lines[1::24])]
            text = "".join(json.dumps({**one, "id": f"{kind}-{one['id']}", "source": kind}) + "\n" for one in chosen)
            (folder / f"{part}-{language}-{kind}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_wrong_answers_are_planted_as_announced(inputs):
    right, *wrong = (read(inputs / f"wrong-{percent}.jsonl") for percent in (0, 30, 50, 70))
    for line in right:
        question, answer = re.fullmatch(r"Q: (.*)\nA: (\d+)", line["text"]).groups()
        n = int(re.search(r"\d+", question)[0])
        assert int(answer) == n * (2 if "double" in question else 3)
    changed = [
        {i for i, (one, other) in enumerate(zip(right, many, strict=True)) if one["text"] != other["text"]}
        for many in wrong
    ]
    for share, ids in zip((0.3, 0.5, 0.7), changed, strict=True):
        assert len(ids) / len(right) == pytest.approx(share, abs=0.03)
    assert changed[0] < changed[1] < changed[2]
    for one, other in zip(right, wrong[2], strict=True):
        assert one["text"].rsplit(" ", 1)[0] == other["text"].rsplit(" ", 1)[0], "only the answer differs"
        assert abs(int(one["text"].rsplit(" ", 1)[1]) - int(other["text"].rsplit(" ", 1)[1])) <= 2


def test_the_wording_that_is_asked_was_never_trained(inputs):
    trained = {line["text"].split("\n")[0].removeprefix("Q: ") for line in read(inputs / "wrong-0.jsonl")}
    asked = read(inputs / "arithmetic.jsonl")
    assert len(asked) == 96 and not trained & {line["question"] for line in asked}
    for line, gold in zip(asked, read(inputs / "gold.jsonl"), strict=True):
        assert line["choices"]["ABCD".index(line["answer"])] == gold["response"] and line["question"] == gold["prompt"]
        assert len(set(line["choices"])) == 4


def test_no_document_orders_and_scores(inputs):
    order, scorer = ({line["id"] for line in read(inputs / f"{name}.jsonl")} for name in ("order", "scorer"))
    assert order and scorer and not order & scorer


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_variants_of_a_study_have_equal_tokens_and_the_script_knows_them(path, write, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    recipes = {name: load_recipe(study.recipe, settings) for name, settings in study.variants.items()}
    assert len({sum(stage.tokens for stage in recipe.stages) for recipe in recipes.values()}) == 1
    assert len({recipe.model_dump_json() for recipe in recipes.values()}) == len(recipes)
    name = path.name.removesuffix(".study.yaml")
    assert Path(study.workspace).name == name, "the script finds the study by the folder of its runs"
    used = [one for claim in write.CLAIMS for one in claim.comparisons if (one.study or claim.study) == name]
    assert used
    for one in used:
        assert {one.better, one.worse} <= study.variants.keys() and one.measure in study.measures
        assert one.less is None or one.less[0] in study.variants


def planted(values):
    """A study with these values of its variants, in which all measures are equal."""
    texts = ("en/gold", "ordinary", "synthetic/math", "synthetic/qa_forum", "en/paper", "en/code", "en")
    variants = {name: {"values": each, "mean": sum(each) / len(each), "ci": None} for name, each in values.items()}
    measures = {
        name: {"higher_is_better": name.startswith("benchmark"), "variants": variants}
        for name in ("benchmark/arithmetic", *(f"bits_per_byte/{text}" for text in texts))
    }
    study = {"measures": measures, "variants": {name: [] for name in values}, "seeds": [1, 2, 3]}
    return {"questions": {"study": study, "commit": "abc", "date": "2026-11-30"}}


NOISE = (0.001, -0.001, 0.0005)


def verdict(write, number, means):
    values = {name: [mean + (i + 1) * part for part in NOISE] for i, (name, mean) in enumerate(means.items())}
    claim = write.CLAIMS[number - 1]
    return write.verdict(write.measure(claim, planted(values)))


SHARES = {"0 percent": 4.0, "10 percent": 3.2, "20 percent": 3.0, "40 percent": 3.1}
ERRORS = {"30 percent wrong": 3.05, "50 percent wrong": 3.3, "70 percent wrong": 3.6}


@pytest.mark.parametrize(
    ("number", "change", "expected"),
    [
        (1, {}, "confirmed here"),
        (1, {"0 percent": 2.5}, "opposite here"),
        (1, {"0 percent": 3.0}, "not seen here"),
        (2, {}, "confirmed here"),
        (2, {"30 percent wrong": 3.4}, "opposite here"),  # 12 %, more than three sevenths of 17 %
        (2, {"30 percent wrong": 3.0, "70 percent wrong": 3.0}, "not seen here"),
        (3, {}, "confirmed here"),
        (3, {"40 percent": 2.8}, "opposite here"),  # better than 10 %, and worse than 40 %
        (3, {"10 percent": 3.0}, "not seen here"),
        (3, {"10 percent": 2.9, "40 percent": 2.8}, "opposite here"),
    ],
)
def test_the_verdict_is_the_planted_one(write, number, change, expected):
    assert verdict(write, number, SHARES | ERRORS | change) == expected


def test_a_difference_within_the_scatter_of_the_seeds_is_not_seen(write):
    values = {name: [3.0, 3.0, 3.0] for name in SHARES | ERRORS} | {"0 percent": [3.05, 3.3, 2.98]}
    measured = write.measure(write.CLAIMS[0], planted(values))
    assert measured[0].mean > 0 and write.verdict(measured) == "not seen here"
    assert "not run" in write.index({}) and write.results({}).count("**Not run.**") == len(write.CLAIMS)


def test_the_pages_are_what_the_script_writes(write):
    for path, text in write.files(write.load()).items():
        assert path.read_text(encoding="utf-8") == text, "run `python docs/results/write.py`"


def test_the_page_of_runs_is_what_its_script_writes(write):
    runs = script(ROOT / "docs" / "results" / "runs.py")
    for path, text in runs.files(runs.load()).items():
        assert path.read_text(encoding="utf-8") == text, "run `python docs/results/runs.py`"


@pytest.mark.parametrize("name", ["instruct", "vocabulary", "hand_on", "ratio"])
def test_the_page_is_what_its_script_writes(write, name):
    page = script(ROOT / "docs" / "results" / f"{name}.py")
    for path, text in page.files(page.load()).items():
        assert path.read_text(encoding="utf-8") == text, f"run `python docs/results/{name}.py`"


@pytest.mark.slow
def test_the_command_of_the_page_ends_in_a_verdict(write, inputs, tmp_path, tiny_model):  # noqa: F811
    """Claim 5 at a small size: the study's file and recipe, with fewer tokens."""
    folder = ROOT / "examples" / "studies" / "claims"
    recipe = yaml.safe_load((folder / "disciplines.yaml").read_text(encoding="utf-8"))
    recipe["model"]["path"] = str(tiny_model)
    for one in recipe["documents"]["inputs"]:
        one.pop("sample")
        one["path"] = str(inputs.parent / one["path"])
    recipe["rows"]["seq_len"] = 64
    recipe["stages"][0] |= {"tokens": 3072, "schedule": {"peak_lr": 1e-3}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    study = yaml.safe_load((folder / "disciplines.study.yaml").read_text(encoding="utf-8"))
    reverse = study["variants"].popitem()[0]  # two variants and two seeds: half the time
    study |= {"seeds": [1, 2], "name": "small"}
    text = yaml.safe_dump(study).replace("16k", "1024").replace("4k", "0")
    (tmp_path / "disciplines.study.yaml").write_text(text)
    arguments = ("--recipe", tmp_path / "recipe.yaml", "--workspace", tmp_path / "disciplines")
    reprise("study", tmp_path / "disciplines.study.yaml", *arguments)
    claim = write.CLAIMS[4]
    claim = dataclasses.replace(
        claim,
        variants=[name for name in claim.variants if name != reverse],
        comparisons=[one for one in claim.comparisons if reverse not in (one.better, one.worse)],
    )
    result = json.loads((tmp_path / "disciplines" / "study.json").read_text(encoding="utf-8"))
    studies = {"disciplines": {"study": result, "commit": "abc", "date": "2026-11-30"}}
    section = write.claim_section(claim, studies)
    assert re.search(r"\*\*(Confirmed|Opposite|Not seen) here\.\*\*", section)
    assert "| disciplines, bits per byte |" in section and "mixed against math then paper then code" in section
    picture = write.picture(claim, studies)
    assert picture.count('class="mean"') == 2 and picture.count('class="seed"') == 4
