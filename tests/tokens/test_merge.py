"""Merging of sorted runs: ranges that are repeated or finish in any order, and the disk that it takes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokens.stores import EOS, build_store, document, random_documents

from reprise.tokens import builder, merge
from reprise.tokens.store import TokenStore


def files(store: TokenStore) -> dict[str, bytes]:
    paths = [path for path in store.root.rglob("*") if path.is_file()]
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in paths}


def many_documents() -> list[dict]:
    return [
        *random_documents(1, 90, 30, "en-", lang="en", source="book"),
        *random_documents(2, 60, 20, "zh-", lang="zh", source="web", topic="Law"),
        *random_documents(4, 25, 20, "va-", lang="zh", source="web", split="valid"),
    ]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.text("ab", max_size=3), min_size=1, max_size=40),
    held_bytes=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_a_bucket_is_sorted_by_id_whatever_the_ranges(tmp_path_factory, ids, held_bytes, seed):
    dice = np.random.default_rng(seed)
    documents = [document(one, dice.integers(5, 99, dice.integers(0, 6)).tolist()) for one in ids]
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "HELD_BYTES", held_bytes)
        (bucket,) = build_store(root, documents).train.values()
    expected = sorted((one["id"].encode(), [*map(int, one["text"].split()), EOS]) for one in documents)
    stored = [
        (bucket.doc_ids[i].encode(), bucket.tokens[bucket.offsets[i] : bucket.offsets[i + 1]].tolist())
        for i in range(bucket.num_documents)
    ]
    assert [name for name, _ in stored] == [name for name, _ in expected]
    assert sorted(stored) == expected  # those with one id are in the order of a hash


def test_ranges_may_finish_in_any_order_and_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with several workers, some of which are killed when they have written half of a range."""
    expected = files(build_store(tmp_path / "a", many_documents()))

    def run_pieces(function, pieces, *, finished=None, **_):
        results, dice = {}, np.random.default_rng(5)
        waiting = list(range(len(pieces)))
        while waiting:
            index = waiting.pop(int(dice.integers(min(4, len(waiting)))))  # four workers
            function(pieces[index])
            results[index] = function(pieces[index])
            if finished is not None:
                finished(index)
        return [results[index] for index in range(len(pieces))]

    monkeypatch.setattr(builder, "HELD_BYTES", 300)
    monkeypatch.setattr(merge, "run_pieces", run_pieces)
    assert files(build_store(tmp_path / "b", many_documents())) == expected


def test_runs_and_store_together_take_little_more_disk_than_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_range, used = merge._merge_range, []

    def measured(root, *arguments):
        result = merge_range(root, *arguments)
        used.append(sum(path.stat().st_blocks * 512 for path in root.rglob("tokens.npy")))
        return result

    monkeypatch.setattr(builder, "HELD_BYTES", 64 << 10)
    monkeypatch.setattr(merge, "_merge_range", measured)
    store = build_store(tmp_path, random_documents(3, 600, 2500, "en-", lang="en", source="book"))
    size = sum(path.stat().st_size for path in store.root.rglob("tokens.npy"))
    assert len(used) > 30
    assert max(used) < 1.15 * size
