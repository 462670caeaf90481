import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.recipe.groups import Groups
from reprise.report import curves


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    good = json.dumps({"kind": "step", "tokens": 8, "step": 1})
    records, damaged = curves.read_metrics(write(tmp_path / "m.jsonl", [good, '{"kind": "st']))
    assert [record["tokens"] for record in records] == [8]
    assert damaged == 0


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    good = json.dumps({"kind": "step", "tokens": 8, "step": 1})
    path = write(tmp_path / "m.jsonl", [good, "\x00\x00", "[]", '{"kind": "step"}', good, ""])
    records, damaged = curves.read_metrics(path)
    assert (len(records), damaged) == (2, 3)


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert curves.read_metrics(tmp_path / "missing.jsonl") == ([], 0)


def test_what_a_restart_did_again_is_left_out() -> None:
    records = [{"kind": "step", "tokens": tokens, "loss": 1.0} for tokens in (10, 20, 30, 40)]
    records += [{"kind": "guard", "tokens": 35}, {"kind": "resume", "tokens": 20}]
    records += [{"kind": "step", "tokens": tokens, "loss": 2.0} for tokens in (30, 40)]
    kept = curves.drop_repeated(records)
    assert [(r["kind"], r["tokens"], r.get("loss")) for r in kept] == [
        ("step", 10, 1.0),
        ("step", 20, 1.0),
        ("guard", 35, None),
        ("resume", 20, None),
        ("step", 30, 2.0),
        ("step", 40, 2.0),
    ]


def test_a_process_that_found_no_checkpoint_begins_again() -> None:
    records = [{"kind": "start", "tokens": 0}, {"kind": "step", "tokens": 10, "loss": 1.0}]
    records += [{"kind": "start", "tokens": 0}, {"kind": "step", "tokens": 10, "loss": 2.0}]
    records += [{"kind": "start", "tokens": 0}, {"kind": "resume", "tokens": 10}, {"kind": "step", "tokens": 20}]
    kept = curves.drop_repeated(records)
    assert [(r["kind"], r["tokens"], r.get("loss")) for r in kept] == [
        ("start", 0, None),
        ("resume", 0, None),
        ("step", 10, 2.0),
        ("resume", 10, None),
        ("step", 20, None),
    ]


def test_a_kill_while_a_checkpoint_was_being_loaded_loses_no_history() -> None:
    records = [{"kind": "start", "tokens": 0}]
    records += [{"kind": "step", "tokens": tokens, "loss": 1.0} for tokens in (10, 20, 30)]
    records += [{"kind": "start", "tokens": 0}, {"kind": "start", "tokens": 0}]
    whole = [("start", 0), ("step", 10), ("step", 20), ("step", 30)]
    assert [(r["kind"], r["tokens"]) for r in curves.drop_repeated(records)] == whole
    records += [{"kind": "start", "tokens": 0}, {"kind": "resume", "tokens": 20, "checkpoint": "step-2"}]
    kept = curves.drop_repeated(records)
    assert [(r["kind"], r["tokens"]) for r in kept] == [*whole[:3], ("resume", 20)]


def test_a_measurement_that_was_repeated_counts_once() -> None:
    """A process that is killed before its first checkpoint measures the base model again in its next life."""
    life = [{"kind": "start", "tokens": 0}, {"kind": "validation", "tokens": 0}, {"kind": "step", "tokens": 10}]
    kept = curves.drop_repeated([*life, *life, *life])
    assert [r["kind"] for r in kept] == ["start", "resume", "resume", "validation", "step"]
    back = [{"kind": "resume", "tokens": 10, "checkpoint": "step-1"}, {"kind": "validation", "tokens": 10, "new": True}]
    kept = curves.drop_repeated([*life, {"kind": "validation", "tokens": 10}, *back])
    assert [r.get("new") for r in kept if r["kind"] == "validation"] == [None, True]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=2000))
def test_a_long_series_keeps_its_mean_and_its_end(losses: list[float]) -> None:
    steps = [{"tokens": 10 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    series = curves._series(steps)
    assert len(series["tokens"]) <= curves.MAX_POINTS
    assert series["tokens"][-1] == steps[-1]["tokens"]
    width = series["steps_per_point"]
    expected = [sum(losses[i : i + width]) / len(losses[i : i + width]) for i in range(0, len(losses), width)]
    assert series["loss"] == pytest.approx(expected)


def test_a_loss_that_is_not_finite_is_left_out_of_the_mean() -> None:
    steps = [{"tokens": 1, "loss": math.nan}, {"tokens": 2, "loss": None}]
    assert curves._series(steps)["loss"] == [None, None]


def test_a_languages_bits_per_byte_weighs_its_buckets_by_bytes() -> None:
    def entry(source: str, topic: str | None, bits: float, num_bytes: float, tokens: int) -> dict[str, object]:
        nll = bits * math.log(2) / tokens
        values = {"nll": nll, "tokens": tokens, "bits_per_byte": bits / num_bytes, "num_bytes": num_bytes}
        return {"language": "zh", "source": source, "topic": topic} | values

    entries = [
        entry("web", "Law", 900, 300, 250),
        entry("web", "Others", 500, 400, 90),
        entry("book", None, 60, 100, 30),
    ]
    found = curves.bits_per_byte_of({"tokens": 7, "validation": entries}, Groups())
    values = {(e["source"], e["topic"]): e["value"] for e in found["bits_per_byte"]}
    assert values[None, None] == pytest.approx(1460 / 800)
    assert values["web", None] == pytest.approx(1400 / 700)
    assert values["web", "Law"] == pytest.approx(3.0)
    assert values["book", None] == pytest.approx(0.6)


def test_seconds_add_up_over_the_lives_of_the_process() -> None:
    records = [{"seconds": s} for s in (0.0, 10.0, 25.0, 0.0, 5.0, 8.0)]
    assert curves._seconds(None, records) == 33.0
