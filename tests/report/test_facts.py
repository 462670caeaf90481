"""The report at every moment of a run."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reprise import schemas
from reprise.cli import show
from reprise.errors import UserError
from reprise.manifest import Comparison, read_manifest, write_manifest
from reprise.recipe import Recipe
from reprise.report import facts as facts_module
from reprise.report.build import HTML, JSON, compare_report, run, write_report
from reprise.report.facts import finite, gather
from reprise.report.page import render_report
from reprise.report.records import Report
from reprise.stage_names import stage_names
from reprise.storage import write_checked
from reprise.verification import VERIFIED
from reprise.workspace import Work, Workspace

FORMATS = {one.name: one for one in schemas.FORMATS}
Run = tuple[Workspace, Recipe]
RunUntil = Callable[..., Run]

MOMENTS = ("read", "clean", "decontaminate", "score", "synthesize", "tokenize", "train-1", "train-2", "evaluate")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_report_can_be_written_at_any_moment(run_until: RunUntil, moment: str) -> None:
    workspace, recipe = run_until(moment)
    facts = write_report(workspace, recipe, workspace.root / HTML)
    states = {stage["stage"]: stage["state"] for stage in facts["stages"]}
    names = stage_names(recipe)
    done = names[: names.index(moment) + 1]
    assert states == {name: "done" if name in done else "missing" for name in names}
    assert facts["run"]["state"] == ("finished" if moment == "evaluate" else "not finished")
    written = json.loads((workspace.root / JSON).read_text(encoding="utf-8"))
    assert written == facts
    FORMATS["report"].check(written)
    assert facts["verdict"]["provisional"] == (moment != "evaluate")
    assert bool(facts["verdict"]["verdicts"]) == (moment == MOMENTS[-1])
    assert bool(facts["verdict"]["so_far"]) == (moment in MOMENTS[-3:-1])


def test_a_run_that_has_not_begun(tmp_path: Path, run_until: RunUntil) -> None:
    _, recipe = run_until("read")
    facts = write_report(Workspace(tmp_path / "empty"), recipe, tmp_path / "empty" / HTML)
    FORMATS["report"].check(facts)
    assert facts["run"]["state"] == "not begun"
    assert (tmp_path / "empty" / HTML).exists()


def test_training_at_work_is_read_from_the_unpublished_folder(run_until: RunUntil) -> None:
    workspace, recipe = run_until("train-1")
    folder = workspace.folder("train-1")
    (folder / "manifest.json").unlink()
    folder.rename(workspace.root / "train-1.partial")
    with (workspace.root / "train-1.partial" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "step", "tok')  # the line that is being written
    facts = gather(workspace, recipe)
    (stage,) = (stage for stage in facts["stages"] if stage["stage"] == "train-1")
    assert stage["state"] == "unfinished"
    assert 0 <= stage["last_sign_of_life_s_ago"] < 60
    assert facts["training"][0]["tokens"] > 0
    assert facts["training"][0]["damaged_lines"] == 0
    assert {"zh", "en", "en/web"} <= {change["path"] for change in facts["verdict"]["so_far"]}


def test_bits_per_byte_are_those_of_the_evaluation(unchanged: Run) -> None:
    workspace, recipe = unchanged
    results = json.loads((workspace.folder("evaluate") / "results.json").read_text(encoding="utf-8"))
    found = write_report(workspace, recipe, workspace.root / HTML)["bits_per_byte"]
    assert found == results["bits_per_byte"]
    assert {"language", "source", "topic", "before", "after"} <= found[0].keys()
    assert sorted(row["language"] for row in found if row["source"] is None and row["topic"] is None) == ["en", "zh"]


def test_the_budget_is_the_plan_and_what_was_spent(unchanged: Run) -> None:
    workspace, recipe = unchanged
    facts = gather(workspace, recipe)
    for number, stage in enumerate(recipe.stages, start=1):
        rows = [row for row in facts["budget"] if row["stage"] == number]
        assert sum(row["planned"] for row in rows) == stage.tokens
        assert all(row["spent"] > 0 for row in rows)


def test_events_are_restarts_guards_and_changes_by_hand(unchanged: Run) -> None:
    (events, _) = (stage["events"] for stage in gather(*unchanged)["training"])
    assert [event["kind"] for event in events] == ["guard", "resume", "shares"]
    assert events[0]["detail"]["action"] == "skip"
    assert events[1]["detail"]["checkpoint"] == "step-00000012"
    assert events[2]["detail"] == {"cause": "shares.json", "path": "zh"}


def test_the_machine_and_its_hours_are_those_of_training(unchanged: Run) -> None:
    facts = gather(*unchanged)
    machine = facts["repeat"]["machine"]
    cost = facts["repeat"]["cost"]
    assert cost["process_hours"] == round(sum(s["seconds"] for s in facts["training"]) / 3600, 4)
    assert cost["tokens"] == sum(s["tokens"] for s in facts["training"]) and cost["price"] is None
    assert machine["versions"]["torch"]


def test_cost_has_flops_and_price_where_they_are_known(unchanged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, recipe = unchanged
    monkeypatch.setattr(facts_module, "_flops_per_token", lambda *arguments: 6e8)
    priced = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"price_per_hour": 2.5})})
    cost = gather(workspace, priced)["repeat"]["cost"]
    assert cost["training_flops"] == 6e8 * cost["tokens"] > 0
    assert cost["price"] == pytest.approx(2.5 * cost["process_hours"], rel=1e-2)


def test_a_result_of_an_older_stage_is_named(finished: Run) -> None:
    workspace, recipe = finished
    manifest = workspace.manifest("score")
    assert manifest is not None
    write_manifest(workspace.folder("score"), replace(manifest, content="another"))
    facts = write_report(workspace, recipe, workspace.root / HTML)
    older = {stage["stage"]: stage["older_input"] for stage in facts["stages"] if stage["older_input"]}
    assert older == {name: ["score"] for name in ("synthesize", "tokenize", "train-1", "train-2", "evaluate")}
    assert "was made from an older score" in (workspace.root / HTML).read_text(encoding="utf-8")


def test_numbers_that_are_not_finite_become_null() -> None:
    given = {"a": [1.0, float("nan"), (float("inf"),)], "b": "x", "c": 3, "d": None, "e": True}
    assert finite(given) == {"a": [1.0, None, [None]], "b": "x", "c": 3, "d": None, "e": True}


def test_the_stage_writes_into_the_workspace(finished: Run) -> None:
    workspace, recipe = finished
    output = workspace.root / "report.partial"
    output.mkdir()
    work = Work(output=output, inputs={}, cache=workspace.root / "cache")
    run(work, recipe=recipe)
    assert (workspace.root / HTML).stat().st_size > 1_000_000  # the plotting script is in it
    assert json.loads((output / JSON).read_text(encoding="utf-8"))["run"]["name"] == recipe.name
    assert not list(workspace.root.glob(".*.tmp"))


def test_runs_side_by_side(run_until: RunUntil, tmp_path: Path) -> None:
    first, _ = run_until("evaluate", folder="one")
    second, _ = run_until("train-2", "name=hotter", "stages.0.schedule.peak_lr=3e-4", folder="two")
    facts = compare_report([first.root, second.root], tmp_path / "compare.html")
    FORMATS["comparison"].check(facts)
    assert [entry["report"]["run"]["name"] for entry in facts["runs"]] == ["demo", "hotter"]
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "stages.0.schedule.peak_lr" in page.replace("<wbr>", "")
    assert "stages.1.schedule.peak_lr" not in page.partition('type="application/json"')[0]
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8")) == facts


def test_one_run_is_nothing_to_compare(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare_report([finished[0].root], tmp_path / "compare.html")


def test_a_folder_that_is_no_run_is_named(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"other.*this folder is no run"):
        compare_report([finished[0].root, tmp_path / "other"], tmp_path / "compare.html")


def test_a_verdict_on_a_benchmark_is_said_in_points(unchanged: Run) -> None:
    """As the evaluation writes it; better is left, as for bits per byte."""
    page = render_report(gather(*unchanged))
    verdicts = page[page.index('id="verdict"') : page.index('id="data"')]
    (row,) = (row for row in verdicts.split("<tr>") if ">ceval<" in row)
    assert "gained Chinese (bits per byte fell by 11." in verdicts and "Bits per byte: lower is better" in verdicts
    assert re.search(r"kept English \(bits per byte rose by 0\.\d\u202f%, tolerance 2\u202f%", verdicts)  # unbroken
    for cell in ("27.00\u202f%", "33.00\u202f%", "2\u202fpoints"):
        assert f">{cell}<" in row
    assert 'rose by 6.00\u202fpoints <span class="better">(better)</span>' in row
    dot = re.search(r'class="dot" style="left:([0-9.]+)%"', row)
    assert dot is not None
    assert float(dot[1]) < 50


def _verify(workspace: Workspace, **damage: str) -> None:
    """Write the record of `reprise verify` of the run as it is, with damage in some stages."""
    parts = []
    for path in sorted(workspace.root.glob("*/manifest.json")):
        name = path.parent.name
        parts.append(
            {"what": name, "manifest": read_manifest(path).everything, "files": 3, "bytes": 3_000}
            | {"damage": [damage[name]] if name in damage else []}
        )
    parts.append({"what": "inputs", "manifest": None, "files": 1, "bytes": 153580, "damage": []})
    write_checked(workspace.root / VERIFIED, {"when": "2026-11-29T10:00:00Z", "seconds": 0.4, "parts": parts})


def _states(facts: Report) -> dict[str, str]:
    return {part["what"]: part["verified"] for part in facts["integrity"]["parts"]}


def test_the_report_says_what_was_verified(finished: Run) -> None:
    workspace, recipe = finished
    facts = gather(workspace, recipe)
    assert facts["integrity"]["when"] is None
    assert set(_states(facts).values()) == {"not verified"}
    assert "has not read the whole run yet" in render_report(facts)
    _verify(workspace)
    facts = gather(workspace, recipe)
    assert _states(facts) == dict.fromkeys((*stage_names(recipe), "inputs"), "as written")
    page = render_report(facts)
    assert "2026-11-29 10:00:00 UTC" in page
    assert "all files were as they were written" in page


def test_damage_that_verify_found_stands_under_the_verdict(finished: Run) -> None:
    workspace, recipe = finished
    _verify(workspace, tokenize="tokens.npy is damaged")
    facts = gather(workspace, recipe)
    assert _states(facts)["tokenize"] == "damaged"
    verdict = render_report(facts).split('id="data"')[0]
    assert "tokens.npy is damaged" in verdict


def test_what_was_made_after_verify_is_not_called_verified(finished: Run) -> None:
    workspace, recipe = finished
    _verify(workspace, evaluate="results.json is damaged")
    manifest = workspace.manifest("evaluate")
    assert manifest is not None
    write_manifest(workspace.folder("evaluate"), replace(manifest, finished="2026-11-30T00:00:00Z"))
    facts = gather(workspace, recipe)
    assert _states(facts)["evaluate"] == "made since"
    assert facts["integrity"]["damage"] == []
    assert "but for what was made since" in render_report(facts)
    file = workspace.root / VERIFIED
    file.write_text(file.read_text(encoding="utf-8").replace("153580", "153581"), encoding="utf-8")
    assert gather(workspace, recipe)["integrity"]["when"] is None  # a changed record says nothing


def test_a_stage_whose_files_were_compared_says_before_what(finished: Run) -> None:
    workspace, recipe = finished
    manifest = workspace.manifest("train-1")
    assert manifest is not None
    compared: dict[str, Comparison] = {"tokenize": {"files": 4, "bytes": 9, "seconds": 0.0}}
    write_manifest(workspace.folder("train-1"), replace(manifest, compared=compared))
    parts = {part["what"]: part for part in gather(workspace, recipe)["integrity"]["parts"]}
    assert parts["tokenize"]["compared_before"] == ["train-1"]
    assert "train-2" in parts["tokenize"]["written_before"]
    other = replace(manifest, compared=compared, inputs={**manifest.inputs, "tokenize": "another content"})
    write_manifest(workspace.folder("train-1"), other)
    parts = {part["what"]: part for part in gather(workspace, recipe)["integrity"]["parts"]}
    assert parts["tokenize"]["compared_before"] == []  # it was another token store


def test_math_has_both_scores(finished: Run) -> None:
    facts = gather(*finished)
    (math,) = [row for row in facts["benchmarks"] if row["benchmark"] == "math"]
    math["other_metrics"]["acc_symbolic"]["verdict"] = "gained"
    page = render_report(facts)
    row = page.split("math, answers of equal value")[1].split("</tr>")[0]
    assert "6.75" in row and "gained" in row
    assert "rose by 2.50" in row
    assert "+0.2 to +4.8" in row


def test_a_folder_whose_name_contains_an_equals_sign_is_a_run_not_an_override(
    run_until: RunUntil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace, _ = run_until("read", folder="lr=1e-4")
    monkeypatch.chdir(tmp_path)
    show.report(["lr=1e-4"], compare=False, output=None)
    assert (workspace.root / HTML).exists()
    with pytest.raises(UserError, match="name one recipe"):
        show.report(["lr=1e-5"], compare=False, output=None)
