import json
import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from reprise.errors import UserError
from reprise.manifest import Derivation, differences
from reprise.storage import digest, record_input, write_json
from reprise.workspace import Workspace


def derivation_of(value=1, *, resumable=False, precious=False, files=None):
    return Derivation("work", {"value": value}, {}, files or {}, resumable=resumable, precious=precious)


def publish(workspace, derivation, text="x"):
    work = workspace.begin(derivation)
    (work.output / "sub").mkdir(exist_ok=True)
    (work.output / "sub" / "out.txt").write_text(text)
    work.counts["documents"] = 3
    workspace.publish(derivation, work, 0.5)


def test_published_stage_is_fresh_and_tells_what_it_is(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.status(derivation_of()).state == "missing"
    publish(workspace, derivation_of())
    assert workspace.status(derivation_of()).state == "fresh"
    manifest = workspace.manifest("work")
    assert manifest.outputs["sub/out.txt"]["size"] == 1
    assert manifest.counts == {"documents": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


def test_changed_setting_is_stale_and_named(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, derivation_of(1))
    status = workspace.status(derivation_of(2))
    assert (status.state, status.reason) == ("stale", "value: 1 -> 2")


def test_missing_and_cut_files_are_named(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, derivation_of(), "hello")
    out = tmp_path / "work" / "sub" / "out.txt"
    out.write_text("hell")
    assert "has 4 bytes, not 5" in workspace.status(derivation_of()).reason
    out.unlink()
    assert "is missing" in workspace.status(derivation_of()).reason
    (tmp_path / "work" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest is damaged"):
        workspace.status(derivation_of())


def test_file_outside_the_folder_is_missed(tmp_path):
    workspace = Workspace(tmp_path)
    work = workspace.begin(derivation_of())
    (tmp_path / "page.html").write_text("x")
    work.outside.append(tmp_path / "page.html")
    workspace.publish(derivation_of(), work, 0.1)
    assert workspace.status(derivation_of()).state == "fresh"
    (tmp_path / "page.html").unlink()
    assert "page.html is missing" in workspace.status(derivation_of()).reason


def test_changed_input_file_is_named(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("a")
    workspace = Workspace(tmp_path / "ws")
    before = derivation_of(files={"in.txt": record_input(source)})
    publish(workspace, before)
    os.utime(source, ns=(1, 1))
    touched = derivation_of(files={"in.txt": record_input(source, before.files["in.txt"])})
    assert workspace.status(touched).state == "fresh"
    source.write_text("b")
    changed = derivation_of(files={"in.txt": record_input(source, touched.files["in.txt"])})
    assert workspace.status(changed).reason == "in.txt changed"
    assert "in.txt is gone" in workspace.status(derivation_of()).reason


def test_begun_stage_is_thrown_away_unless_resumable(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.begin(derivation_of()).output / "half").write_text("")
    assert not (workspace.begin(derivation_of()).output / "half").exists()
    (workspace.begin(derivation_of(resumable=True)).output / "half").write_text("")
    assert (workspace.begin(derivation_of(resumable=True)).output / "half").exists()
    assert not (workspace.begin(derivation_of(2, resumable=True)).output / "half").exists()


def test_precious_progress_is_never_lost_silently(tmp_path):
    workspace = Workspace(tmp_path)
    old, new = (derivation_of(value, resumable=True, precious=True) for value in (1, 2))
    (workspace.begin(old).output / "half").write_text("")
    with pytest.raises(UserError, match=r"value: 1 -> 2.*\n.*--restart.*--adopt"):
        workspace.begin(new)
    assert (workspace.begin(old).output / "half").exists()
    assert (workspace.begin(new, adopt=True).output / "half").exists()
    assert (workspace.begin(new).output / "half").exists()
    assert workspace.begin(new, adopt=True).adopt  # a run that was killed before it saved under the new settings
    assert not workspace.begin(new).adopt
    assert not (workspace.begin(old, restart=True).output / "half").exists()


def test_a_precious_stage_is_kept_and_put_back(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, derivation_of(1, precious=True), "first")
    publish(workspace, derivation_of(2, precious=True), "second")
    assert (tmp_path / "work" / "sub" / "out.txt").read_text() == "second"
    assert not workspace.restore(derivation_of(3, precious=True))
    assert workspace.restore(derivation_of(1, precious=True))
    assert workspace.status(derivation_of(1, precious=True)).state == "fresh"
    assert (tmp_path / "work" / "sub" / "out.txt").read_text() == "first"
    assert workspace.restore(derivation_of(2, precious=True))
    assert len(list(tmp_path.glob("work.kept-*"))) == 1


def test_a_damaged_precious_stage_makes_room(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, derivation_of(precious=True))
    (tmp_path / "work" / "sub" / "out.txt").unlink()
    publish(workspace, derivation_of(precious=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


def test_two_runs_in_one_workspace_are_refused(tmp_path):
    with Workspace(tmp_path).locked(), pytest.raises(UserError, match="another reprise"), Workspace(tmp_path).locked():
        pass


def _publish_forever(root, number):
    workspace = Workspace(root)
    while True:
        number += 1
        publish(workspace, derivation_of(number), "x" * 1000)


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null/run"])
def test_a_workspace_that_cannot_be_written_is_one_message(place):
    with (
        pytest.raises(UserError, match=r"the workspace cannot be written: .*\n.*workspace=\.\.\."),
        Workspace(place).locked(),
    ):
        pass


def test_kill_at_any_moment_leaves_old_or_new_whole(tmp_path):
    """SIGKILL between any two system calls: what is published is complete, and nothing half-done counts as done."""
    context = multiprocessing.get_context("fork")
    seen = set()
    for attempt in range(25):
        child = context.Process(target=_publish_forever, args=(tmp_path, 1000 * attempt), daemon=True)
        child.start()
        time.sleep(0.03 + 0.004 * attempt)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        workspace = Workspace(tmp_path)
        workspace.adopt_finished()
        manifest = workspace.manifest("work")
        assert manifest is None or workspace.damage(manifest) is None
        seen.add(manifest is not None and manifest.settings["value"])
    assert len(seen) > 3


def test_finished_but_unnamed_stage_is_adopted(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, derivation_of())
    (tmp_path / "work").rename(tmp_path / "work.partial")
    write_json(tmp_path / "work.partial" / "begun.json", {})
    workspace.adopt_finished()
    assert workspace.status(derivation_of()).state == "fresh"
    assert not (tmp_path / "work" / "begun.json").exists()


def test_digest_does_not_depend_on_key_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_differences_name_nested_settings():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2, "d": 4}}) == ["a.b: 1 -> 3", "a.d: null -> 4"]
    assert differences([{"sample": 1.0}, 2], [{"sample": 0.1}, 2], "inputs") == ["inputs.0.sample: 1.0 -> 0.1"]
    assert differences([1], [1, 2], "inputs") == ["inputs: [1] -> [1, 2]"]


def test_write_json_survives_a_reader(tmp_path):
    write_json(tmp_path / "x.json", {"text": "中文"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"text": "中文"}


def test_files_that_a_killed_process_was_writing_are_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f".report.html.{dead.pid}.tmp", tmp_path / "cache" / "evaluate" / f".bits.json.{dead.pid}.tmp"]
    alive = tmp_path / f".report.json.{os.getppid()}.tmp"
    left[1].parent.mkdir(parents=True)
    for path in (*left, alive):
        path.write_text("cut")
    Workspace(tmp_path).adopt_finished()
    assert not any(path.exists() for path in left)
    assert alive.exists()


@pytest.mark.parametrize("name", ["read", "report"])
def test_a_folder_of_the_users_is_never_taken_for_a_stage(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no stage of a run"):
        Workspace(tmp_path).begin(Derivation(name, {}, {}, {}))
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"
    (tmp_path / name / "thesis.txt").unlink()
    Workspace(tmp_path).begin(Derivation(name, {}, {}, {}))


@pytest.mark.parametrize("name", ["report.html", "report.json", "verified.json"])
def test_a_file_of_the_users_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match="was not written by a run") as refused:
        Workspace(tmp_path).keep_recipe('# Relative paths begin at "/"\nname: x\n')
    assert name in refused.value.where
    (tmp_path / name).unlink()
    Workspace(tmp_path).keep_recipe('# Relative paths begin at "/"\nname: x\n')
    (tmp_path / name).write_text("of the run")
    Workspace(tmp_path).keep_recipe('# Relative paths begin at "/"\nname: y\n')


def test_a_recipe_of_the_users_is_never_overwritten(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# my own\nname: x\n")
    with pytest.raises(UserError, match="was not written by a run"):
        Workspace(tmp_path).keep_recipe('# Relative paths begin at "/"\nname: x\n')
    assert (tmp_path / "recipe.yaml").read_text() == "# my own\nname: x\n"
    (tmp_path / "recipe.yaml").unlink()
    for name in ("x", "y"):
        Workspace(tmp_path).keep_recipe(f'# Relative paths begin at "/"\nname: {name}\n')
    assert "name: y" in (tmp_path / "recipe.yaml").read_text()
