"""Checkpoints in the mirror: a run that is killed during an upload and loses its disk ends as if never killed."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from tests.buckets import Bucket, in_child, store_environment
from tests.forked_group import run_group
from tests.training.conftest import SEQ_LEN, as_call, assert_same_weights, events, make_stage, make_training
from tests.training.train_script import run_call

from reprise import mirror as mirror_module
from reprise import object_store
from reprise.errors import UserError
from reprise.mirror import Mirror
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.training.checkpoint import kept_checkpoints
from reprise.training.stage import run
from reprise.workspace import Work

EVERY = SEQ_LEN * 4 * 2
SCRIPT = Path(__file__).with_name("train_script.py")
NAME = "train-1.partial/checkpoints"


pytestmark = pytest.mark.usefixtures("healthy_bucket")


def settings(base_model):
    """Checkpoints after steps 2, 4, ... of 12."""
    seldom = {"every_tokens": 0, "max_tokens": 64}
    return {
        "stage": make_stage(tokens=SEQ_LEN * 4 * 12),
        "stage_index": 0,
        "rows": Rows(seq_len=SEQ_LEN),
        "training": make_training(checkpoints={"every_tokens": EVERY}, micro_batch_rows=4, validation=seldom),
        "model": Model(path=str(base_model)),
        "seed": 3,
        "kept": find_groups([], {"en": 0.02}),
        "window": (SEQ_LEN, SEQ_LEN // 2),
    }


@pytest.fixture
def saving(base_model):
    return settings(base_model)


@pytest.fixture
def make_mirrored(make_work, tmp_path):
    def make(url):
        work = make_work("train-1.partial")
        work.mirror = Mirror(url)
        return work

    return make


@pytest.fixture(scope="module")
def whole(base_model, store, tmp_path_factory):
    """A run that nothing happened to."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    work = Work(output=folder / "train-1.partial", inputs={"tokenize": store}, cache=folder / "cache")
    work.output.mkdir()
    run(work, **settings(base_model))
    return work


def train(call, endpoint, at, late):
    """Train in this process; the store kills it at one of its changes.

    Each checkpoint is uploaded before the next step: how many are replaced while they wait would depend on the load.
    """
    torch.set_num_threads(1)
    add = Mirror.add_checkpoint

    def add_and_wait(mirror, *arguments, **names):
        add(mirror, *arguments, **names)
        mirror.wait(30.0)

    Mirror.add_checkpoint = add_and_wait
    Bucket(endpoint).faults(kill=os.getpid(), at=at, late=late)
    run_call(json.loads(call))
    Bucket(endpoint).faults()


@pytest.mark.slow
def test_killed_during_uploads_on_disks_that_are_lost(saving, whole, make_work, bucket, tmp_path):
    broken = make_work("train-1.partial")
    call = json.dumps({**json.loads(as_call(saving, broken)), "mirror": "s3://bucket/killed"})
    kills, resumed = 0, []
    for at in (4, 11, 9, 1000):
        shutil.rmtree(broken.output)
        code = in_child(train, call, bucket.endpoint, at, at % 2 == 0)
        kills += code == -9
        resumed += [event["checkpoint"] for event in events(broken, "resume")] if broken.output.exists() else []
        complete = bucket.complete("killed", tmp_path)
        assert all(name.startswith(f"{NAME}/step-") for name in complete)
        assert len(complete) <= 3
        if code == 0:
            break
    assert code == 0
    assert kills >= 3
    assert resumed
    assert_same_weights(whole.output / "model", broken.output / "model")
    losses = {event["step"]: event["loss"] for event in events(broken, "step")}
    assert losses == {event["step"]: event["loss"] for event in events(whole, "step")}


def test_stopped_by_a_signal_waits_for_the_upload_and_resumes_on_an_empty_disk(
    saving, whole, make_mirrored, stop_after, bucket, tmp_path
):
    url = "s3://bucket/stopped"
    work = make_mirrored(url)
    bucket.faults(hang_s=0.3, count=3)
    stop_after(7, work, saving)
    assert bucket.complete("stopped", tmp_path)[-1] == f"{NAME}/step-00000007"
    uploads = events(work, "mirror")
    assert uploads[-1]["name"] == "step-00000007"
    assert uploads[-1]["num_bytes"] > 10_000
    shutil.rmtree(work.output)
    work = make_mirrored(url)
    run(work, **saving)
    assert [event["checkpoint"] for event in events(work, "resume")] == ["step-00000007"]
    assert_same_weights(whole.output / "model", work.output / "model")


def test_a_damaged_checkpoint_of_the_mirror_is_refused_and_the_one_before_is_used(
    saving, whole, make_mirrored, stop_after, bucket, tmp_path
):
    url = "s3://bucket/damaged"
    work = make_mirrored(url)
    stop_after(7, work, saving)
    shutil.rmtree(work.output)
    *_, before, newest = bucket.complete("damaged", tmp_path)  # a checkpoint that waited was replaced by a newer one
    assert newest == f"{NAME}/step-00000007"
    (tensors,) = (name for name in bucket.names(f"damaged/{NAME}/step-00000007") if name.endswith(".distcp"))
    data = bytearray(bucket.content(tensors))
    data[len(data) // 2] ^= 1
    bucket.put(tensors, bytes(data))
    work = make_mirrored(url)
    run(work, **saving)
    (resume,) = events(work, "resume")
    assert resume["checkpoint"] == before.rpartition("/")[2]
    assert "step-00000007 in the mirror" in resume["refused"][0]
    assert_same_weights(whole.output / "model", work.output / "model")


def test_what_is_newer_on_disk_is_used_and_uploaded(saving, whole, make_mirrored, stop_after, bucket, tmp_path):
    url = "s3://bucket/newer"
    stop_after(4, make_mirrored(url), saving)
    work = make_mirrored(url)
    work.mirror = None
    stop_after(3, work, saving)  # the mirror does not see it
    assert bucket.complete("newer", tmp_path)[-1] == f"{NAME}/step-00000004"
    work = make_mirrored(url)
    run(work, **saving)
    assert [event["checkpoint"] for event in events(work, "resume")][-1] == "step-00000007"
    assert events(work, "mirror")[0 if len(events(work, "mirror")) < 5 else -1]
    assert_same_weights(whole.output / "model", work.output / "model")


def test_a_store_that_fails_stops_nothing_and_is_counted(saving, whole, make_mirrored, bucket):
    work = make_mirrored("s3://bucket/failing")
    bucket.faults(status=500, count=10_000)
    run(work, **saving)
    failed = [event for event in events(work, "mirror") if event["error"]]
    assert failed
    assert all(event["failures"] >= object_store.ATTEMPTS and event["num_bytes"] == 0 for event in failed)
    assert bucket.names("failing") == []
    assert_same_weights(whole.output / "model", work.output / "model")


def train_beside_a_hanging_store(call, endpoint):
    """A process of its own: a client that hangs delays the making of other clients, and the end of the process."""
    torch.set_num_threads(1)
    mirror_module.DROP_S = 0.1
    Bucket(endpoint).faults(hang_s=60, count=100)
    run_call(json.loads(call))


def test_a_store_that_hangs_stalls_no_step(saving, whole, make_work, bucket):
    work = make_work("train-1.partial")
    call = json.dumps({**json.loads(as_call(saving, work)), "mirror": "s3://bucket/hanging"})
    start = time.monotonic()
    assert in_child(train_beside_a_hanging_store, call, bucket.endpoint) == 0
    assert time.monotonic() - start < 45
    assert all(event["stall_s"] < 5 for event in events(work, "checkpoint"))
    assert_same_weights(whole.output / "model", work.output / "model")


def test_other_settings_are_refused_on_an_empty_disk_too(saving, make_mirrored, stop_after):
    url = "s3://bucket/settings"
    work = make_mirrored(url)
    stop_after(4, work, saving)
    shutil.rmtree(work.output)
    saving["seed"] = 4
    with pytest.raises(UserError, match="the checkpoint is of other settings") as error:
        run(make_mirrored(url), **saving)
    assert "--restart" in error.value.remedy


@pytest.mark.slow
def test_two_processes_upload_the_files_of_both(saving, make_work, bucket, tmp_path):
    work = make_work("train-1.partial")
    saving["training"] = saving["training"].model_copy(update={"micro_batch_rows": 2})
    call = json.dumps({**json.loads(as_call(saving, work)), "mirror": "s3://bucket/two"})
    codes = run_group(SCRIPT, [call], 2, tmp_path / "errors", store_environment())
    assert codes == [0, 0], (tmp_path / "errors").read_text()[-3000:]
    newest = bucket.complete("two", tmp_path)[-1]
    files = {name.rpartition("/")[2] for name in bucket.names(f"two/{newest}")}
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata", "checkpoint.json"} <= files
    first = tmp_path / "first"
    (work.output / "model").rename(first)
    shutil.rmtree(work.output)
    codes = run_group(SCRIPT, [call], 2, tmp_path / "errors", store_environment())
    assert codes == [0, 0], (tmp_path / "errors").read_text()[-3000:]
    assert [event["checkpoint"] for event in events(work, "resume")] == [newest.rpartition("/")[2]]
    assert_same_weights(first, work.output / "model")


def test_the_same_checkpoints_stay_as_on_disk():
    tokens = {f"step-{step}": step * 10 for step in range(1, 10)}
    names = sorted(tokens, reverse=True)
    assert kept_checkpoints(names, 2, 0, tokens.get) == {"step-9", "step-8"}
    assert kept_checkpoints(names, 1, 30, tokens.get) == {"step-9", "step-6", "step-3"}
