"""The mirror: a folder with a record is complete, whatever happens to the client, the store or an object."""

import json
import os
import time

import pytest
from tests.buckets import Bucket, in_child

from reprise import mirror as mirror_module
from reprise.errors import UserError
from reprise.mirror import Folder, Mirror, check_mirror, remove_folders
from reprise.object_store import DamagedError, ObjectStore, StoreError
from reprise.recipe import read_preset
from reprise.recipe.loading import parse_recipe
from reprise.storage import file_checksum

pytestmark = pytest.mark.usefixtures("healthy_bucket")


def make_folder(path, name, content, files=("a.bin", "sub/b.bin")):
    """A folder of some files and their record."""
    listed = {}
    for file in files:
        target = path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(f"{content} {file} ".encode() * 100)
        listed[file] = file_checksum(target)
    (path / "manifest.json").write_text(json.dumps({"outputs": listed, "content": content}))
    return Folder(path, name, "manifest.json", listed)


def nothing(store):
    """What is called around an upload."""


def upload_twice(first, second, url, endpoint, at, late):
    """Upload a folder, another one under the same name, and remove a third; the store kills this process on the way."""
    bucket = Bucket(endpoint)
    bucket.faults(kill=os.getpid(), at=at, late=late)
    mirror = Mirror(url)
    for folder in (first, second):
        mirror.add(folder)
        assert mirror.wait() == {}
    remove_folders(mirror.store, "old", "manifest.json")
    bucket.faults()


@pytest.mark.slow
def test_killed_at_every_change_of_the_store_leaves_only_complete_folders(bucket, tmp_path):
    first = make_folder(tmp_path / "first", "read", "one", ("a.bin", "sub/b.bin"))
    second = make_folder(tmp_path / "second", "read", "two", ("a.bin", "c.bin"))
    old = make_folder(tmp_path / "old", "step", "three")
    kills, complete = 0, set()
    for at in range(1, 100):
        late = at % 2 == 0
        root = f"run-{at}"
        for name in ("manifest.json", "a.bin", "sub/b.bin"):
            bucket.put(f"{root}/old/step/{name}", (old.path / name).read_bytes())
        url = f"s3://bucket/{root}"
        code = in_child(upload_twice, first, second, url, bucket.endpoint, at, late)
        complete.add(tuple(bucket.complete(root, tmp_path)))
        if code == 0:
            break
        kills += 1
        bucket.faults()
        again = Mirror(url)  # the next run ends the work
        again.add(second)
        assert again.wait() == {}
        assert "read" in bucket.complete(root, tmp_path)
        assert bucket.names(f"{root}/read") == [f"{root}/read/{name}" for name in ("a.bin", "c.bin", "manifest.json")]
    assert kills >= 10
    assert complete == {("old/step",), ("old/step", "read"), ("read",)}


def test_failures_are_tried_again_and_then_reported(bucket, tmp_path):
    folder = make_folder(tmp_path / "folder", "read", "one")
    mirror = Mirror("s3://bucket/failures")
    bucket.faults(status=500, count=6)  # two for each of the library's own repetitions
    mirror.add(folder)
    assert mirror.wait() == {}
    assert mirror.store.failures >= 2
    assert bucket.complete("failures", tmp_path) == ["read"]

    other = make_folder(tmp_path / "other", "clean", "two")
    bucket.faults(status=500, count=10_000)
    mirror.add(other)
    failed = mirror.wait()
    assert list(failed) == ["clean"]
    assert "s3://bucket/failures/clean/" in failed["clean"]
    assert bucket.complete("failures", tmp_path) == ["read"]
    bucket.faults()
    assert mirror.wait() == {}  # tried once more
    assert bucket.complete("failures", tmp_path) == ["clean", "read"]


def test_a_store_that_hangs_holds_nobody(bucket, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "folder", "read", "one")
    mirror = Mirror("s3://bucket/hanging")
    bucket.faults(hang_s=3.0, count=1)
    start = time.monotonic()
    mirror.add(folder)
    failed = mirror.wait(0.3)
    assert time.monotonic() - start < 1.5
    assert "not finished" in failed["read"]
    monkeypatch.setattr(mirror_module, "STALL_S", 0.3)
    assert "not finished" in mirror.wait()["read"]
    assert time.monotonic() - start < 2.5
    monkeypatch.undo()
    assert mirror.wait() == {}
    assert bucket.complete("hanging", tmp_path) == ["read"]


def test_a_newer_checkpoint_replaces_one_that_waits_and_an_equal_folder_is_not_sent(bucket, tmp_path):
    outcomes = []
    mirror = Mirror("s3://bucket/newest")
    steps = [make_folder(tmp_path / f"step-{step}", f"step-{step}", str(step)) for step in range(4)]
    bucket.faults(hang_s=0.5, count=1)
    for step in steps:
        mirror.add_checkpoint(step, before=nothing, after=nothing, told=outcomes.append)
        while step is steps[0] and mirror._current is None:
            time.sleep(0.001)
    assert mirror.holds == {steps[0].path, steps[3].path}
    assert mirror.wait() == {}
    assert [outcome.name for outcome in outcomes] == ["step-0", "step-3"]
    assert all(outcome.num_bytes and outcome.error is None for outcome in outcomes)
    mirror.add_checkpoint(steps[3], before=nothing, after=nothing, told=outcomes.append)
    assert mirror.wait() == {}
    assert outcomes[-1].num_bytes == 0


def test_a_file_that_was_changed_on_disk_is_not_made_a_complete_folder(bucket, tmp_path):
    folder = make_folder(tmp_path / "folder", "read", "one")
    (folder.path / "a.bin").write_bytes(b"other")
    mirror = Mirror("s3://bucket/changed")
    mirror.add(folder)
    assert "a.bin is damaged" in mirror.wait()["read"]
    assert bucket.complete("changed", tmp_path) == []


@pytest.mark.parametrize("what", ["flipped", "short", "missing", "record", "outside"])
def test_damage_is_found_by_the_download(bucket, tmp_path, what):
    folder = make_folder(tmp_path / "folder", "read", "one")
    root = f"damage-{what}"
    mirror = Mirror(f"s3://bucket/{root}")
    mirror.add(folder)
    assert mirror.wait() == {}
    name = f"{root}/read/sub/b.bin"
    good = bucket.content(name)
    record = json.loads(bucket.content(f"{root}/read/manifest.json"))
    if what in ("flipped", "short"):
        bucket.put(name, b"?" + good[1:] if what == "flipped" else good[:-1])
    elif what == "missing":
        ObjectStore(f"s3://bucket/{root}").delete("read/sub/b.bin")
    else:
        outside = {**record["outputs"], "sub/../../a": record["outputs"]["a.bin"]}
        changed = b"{" if what == "record" else json.dumps({"outputs": outside}).encode()
        bucket.put(f"{root}/read/manifest.json", changed)
    with pytest.raises(DamagedError):
        mirror.download("read", "manifest.json", "outputs", tmp_path / "target")
    assert not (tmp_path / "target" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("url", "why"), [("s3://nothing/run", "NoSuchBucket|NO_SUCH_BUCKET"), ("s3://closed/run", "ACCESS_DENIED")]
)
def test_a_mirror_that_cannot_be_written_is_one_message(url, why):
    start = time.monotonic()
    with pytest.raises(UserError, match=why) as error:
        check_mirror(url)
    assert error.value.where == f"mirror={url}"
    assert "AWS_ACCESS_KEY_ID" in error.value.remedy
    assert time.monotonic() - start < 10


def test_a_store_that_cannot_be_reached_is_not_an_empty_one(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    mirror = Mirror("s3://bucket/run")
    mirror.store.attempts = 1
    with pytest.raises(UserError, match="the mirror cannot be used"):
        mirror.read_record("read/manifest.json")
    with pytest.raises(UserError, match="the mirror cannot be used"):
        mirror.names("train-1.partial/checkpoints")
    with pytest.raises(StoreError):
        mirror.store.write("a", b"")


def test_check_leaves_nothing(bucket):
    check_mirror("s3://bucket/checked/run")
    assert bucket.names("checked") == []


@pytest.mark.parametrize("override", ["mirror=", "mirror=null", "mirror=''"])
def test_a_run_without_its_mirror_is_asked_for_as_the_messages_say(override):
    text = f"mirror: s3://bucket/run\n{read_preset('demo')}"
    assert parse_recipe(text).mirror == "s3://bucket/run"
    assert parse_recipe(text, [override]).mirror == ""
