"""benchmarks/row_readers.py: the rows that it compares are those of training, and its checks notice wrong ones."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
from benchmarks import row_readers

SEQ_LEN, BATCH_ROWS = 32, 4


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """As the parent process passes them to a side, with the rows written."""
    folder = tmp_path_factory.mktemp("rows")
    row_readers.build_store(folder / "store", documents=300, tokens=80_000)
    sizes = {"seq_len": SEQ_LEN, "batch_rows": BATCH_ROWS, "workers": [0], "started": 0.0, "rounds": 1}
    options = argparse.Namespace(folder=folder, store=folder / "store", **sizes)
    options.rows = row_readers.write_rows(options)
    return options


def run(options: argparse.Namespace, side: str, step: str) -> dict[str, object]:
    return row_readers.work(argparse.Namespace(**{**vars(options), "side": side, "step": step}))


@pytest.mark.parametrize("side", row_readers.OURS)
def test_reprise_delivers_each_row_once_and_resumes_at_the_right_one(options: argparse.Namespace, side: str) -> None:
    """And a resume one batch too late is not called right."""
    measured = run(options, side, "pass")
    rows = row_readers.stored_rows(options)
    assert measured["rows_per_s"] > 0
    assert row_readers.compare_rows(np.load(options.folder / "heads.npy"), rows) == {"missing": 0, "repeated": 0}
    resumed = run(options, side, "resume")
    assert resumed["right_rows"] is True
    assert 0 < resumed["resume_s"] < resumed["first_row_s"]

    sampler = row_readers.open_sampler(options)
    sampler.load_state(pickle.loads((options.folder / "state").read_bytes()))
    assert sampler.rows_done == int(options.rows // BATCH_ROWS * row_readers.DEPTH) * BATCH_ROWS
    begin, count = sampler.rows_done, row_readers.CHECKED_BATCHES * BATCH_ROWS
    assert np.array_equal(np.load(options.folder / "ahead.npy"), rows[begin : begin + count])
    sampler.skip(BATCH_ROWS)
    (options.folder / "state").write_bytes(pickle.dumps(sampler.state()))
    assert run(options, side, "resume")["right_rows"] is False


def test_rows_left_out_and_delivered_twice_are_counted(options: argparse.Namespace) -> None:
    rows = row_readers.stored_rows(options)
    heads = rows[:, : row_readers.HEAD].astype(np.int64)
    assert row_readers.compare_rows(heads[3:], rows) == {"missing": 3, "repeated": 0}
    assert row_readers.compare_rows(np.concatenate([heads[2:], heads[5:6]]), rows) == {"missing": 2, "repeated": 1}


def test_a_peer_that_cannot_run_is_named_with_its_reason(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(row_readers.__file__).parent))
    monkeypatch.setattr(row_readers, "OURS", {})
    result = row_readers.compare(argparse.Namespace(**vars(options)), {"litdata": "/bin/false"})
    assert result["sides"] == {"litdata, 0 workers": {"failed": "prepare: exit code 1: no message"}}
    assert result["not_run"] == ["mosaicml-streaming", "torchdata", "grain"]
    assert result["rows_per_s_vs_peers"] is None
