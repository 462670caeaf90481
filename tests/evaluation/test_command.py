"""`reprise evaluate`: options, exit codes, what is missing, two vocabularies."""

import json
import sys

import pytest
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.evaluation.test_backends import write_sciq
from tests.evaluation.test_stage import SENTENCES, fit

from reprise import cli
from reprise.errors import UserError
from reprise.evaluation.command import read_texts

WINDOW = ["evaluation.max_length=64", "evaluation.stride=32", "evaluation.dtype=float32"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRISE_CACHE", str(tmp_path / "cache"))


def reprise(monkeypatch, capsys, *arguments):
    """(exit code, standard output, standard error) of a command line."""
    monkeypatch.setattr(sys, "argv", ["reprise", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """Knows its Chinese sentences by heart, and has lost English."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    fit(tiny_model, folder, SENTENCES["zh"])
    return folder


@pytest.fixture
def texts(tmp_path):
    lines = [
        {"text": " ".join([sentences[number % 4]] * (1 + number % 3)), "lang": language}
        for language, sentences in SENTENCES.items()
        for number in range(12)
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "text.jsonl"


def test_loss_is_the_exit_code(tiny_model, trained, texts, monkeypatch, capsys):
    common = ("--text", texts, "--json", *WINDOW)
    better = ("evaluate", trained, "--against", tiny_model, *common)
    worse = ("evaluate", tiny_model, "--against", trained, *common)
    code, out, _ = reprise(monkeypatch, capsys, *better, "--fail-on-loss")
    verdicts = {entry["measure"]: entry["verdict"] for entry in json.loads(out)["verdicts"]}
    # English got worse by more than its tolerance, and that alone is the exit code.
    assert verdicts["Chinese bits per byte"] == "gained" and code == ("lost" in verdicts.values())
    code, out, _ = reprise(monkeypatch, capsys, *worse, "--fail-on-loss")
    verdicts = {entry["measure"]: entry["verdict"] for entry in json.loads(out)["verdicts"]}
    assert code == 1 and verdicts["Chinese bits per byte"] == "lost"
    assert reprise(monkeypatch, capsys, *worse)[0] == 0, "without the option a loss is told, not an error"


def test_missing_set_is_named_and_the_others_run(tiny_model, tmp_path, monkeypatch, capsys):
    data = write_sciq(tmp_path / "data")
    code, out, err = reprise(
        monkeypatch, capsys, "evaluate", tiny_model, "--suite", "sciq", "--suite", "ceval", "--data", data,
        "--limit", "6", "--json", *WINDOW,
    )  # fmt: skip
    results = json.loads(out)
    assert code == 0 and [row["benchmark"] for row in results["benchmarks"]] == ["sciq"]
    row = results["benchmarks"][0]
    assert row["sampled"] and (row["questions"], row["total"]) == (6, 12)
    assert row["ci"][0] <= row["score"] <= row["ci"][1]
    assert list(results["absent"]) == ["ceval"] and "ceval is left out" in err and "test.jsonl is missing" in err


def test_tables_name_sample_interval_and_verdict(tiny_model, trained, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    data = write_sciq(tmp_path / "data")
    code, out, _ = reprise(
        monkeypatch, capsys, "evaluate", trained, "--against", tiny_model, "--suite", "sciq", "--data", data,
        "--limit", "6", "--text", texts, *WINDOW,
    )  # fmt: skip
    assert code == 0 and "6 of 12 (sample)" in out and "gained" in out and "Chinese (bits per byte fell by" in out


def test_models_of_different_vocabularies_are_compared_on_a_text(tiny_model, texts, tmp_path, monkeypatch, capsys):
    """Both know nothing: each of their tokens costs log2(vocabulary) bits, and fewer tokens must win."""
    words = [sentence for part in SENTENCES.values() for sentence in part]
    folders = [
        make_model(tmp_path / str(size), make_tokenizer(words * 3, vocab_size=size), scale=0.0) for size in (257, 420)
    ]
    code, out, _ = reprise(
        monkeypatch, capsys, "evaluate", folders[1], "--against", folders[0], "--text", texts, "--json", *WINDOW
    )
    results = json.loads(out)
    rows = {row["language"]: row for row in results["bits_per_byte"] if row["source"] is None}
    assert code == 0 and rows["en"]["before"] == pytest.approx(8.005, abs=0.01)  # one token to a byte
    assert all(row["after"] < 0.8 * row["before"] and row["verdict"] == "gained" for row in rows.values())


def test_settings_reach_the_measure(tiny_model, texts, monkeypatch, capsys):
    code, out, _ = reprise(monkeypatch, capsys, "evaluate", tiny_model, "--text", texts, "--json", *WINDOW)
    settings = json.loads(out)["settings"]
    assert code == 0 and (settings["max_length"], settings["stride"], settings["dtype"]) == (64, 32, "float32")
    code, _, err = reprise(monkeypatch, capsys, "evaluate", tiny_model, "--text", texts, "evaluation.strid=3")
    assert code == 2 and "did you mean `stride`" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to measure"),
        (["--text", "absent.txt"], "cannot be read"),
        (["--suite", "sciq", "--data", "."], "nothing could be measured (sciq"),
        (["--suite", "siq"], "did you mean 'sciq'"),
        (["--suite", "sciq", "--fail-on-loss"], "--fail-on-loss compares two models"),
        (["--suite", "sciq", "--backend", "ftp://here"], "write an address with http"),
    ],
)
def test_mistakes_leave_with_code_2(arguments, message, tiny_model, monkeypatch, capsys):
    code, _, err = reprise(monkeypatch, capsys, "evaluate", tiny_model, *arguments)
    assert code == 2 and message in err


def test_options_of_a_model_are_refused_for_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.yaml").write_text("name: x")
    code, _, err = reprise(monkeypatch, capsys, "evaluate", tmp_path, "--suite", "quick", "--run-code")
    assert code == 2 and "--suite, --run-code: only for a model" in err


def test_texts_of_a_file(tmp_path):
    plain = tmp_path / "a.txt"
    plain.write_text("one\n\ntwo\n")
    assert [(text.text, text.source) for text in read_texts(plain)] == [("one\n\ntwo\n", "a.txt")]
    (tmp_path / "b.jsonl").write_text('{"text": "x", "lang": "zh", "topic": "Law"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"b.jsonl:2: .*`text`"):
        read_texts(tmp_path / "b.jsonl")
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_texts(plain)
