import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokens.stores import EOS, build_store, document, random_documents

from reprise.tokens.rows import BestFitRows, ConcatRows, DocumentSet, Row

CORPUS = Path(os.environ.get("REPRISE_CORPUS", "../shared/corpus"))


class Lengths(DocumentSet):
    """Documents of which only the lengths are known."""

    def __init__(self, lengths: list[int]) -> None:
        self.__dict__["lengths"] = np.array(lengths, dtype=np.int64)


def shuffled(count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(count)


def rest(stream: ConcatRows | BestFitRows) -> Iterator[Row]:
    while not stream.exhausted:
        yield stream.take()()


def concat(lengths: list[int], seq_len: int, limit: int) -> ConcatRows:
    return ConcatRows(Lengths(lengths), lambda epoch: shuffled(len(lengths), epoch), sum(lengths), seq_len, limit)


def best_fit(lengths: list[int], seq_len: int, limit: int, max_padding: float = 1.0) -> BestFitRows:
    order = lambda epoch: shuffled(len(lengths), epoch)  # noqa: E731
    return BestFitRows(Lengths(lengths), order, sum(lengths), seq_len, limit, max_padding)


cases = st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(8, 24), st.integers(1, 200))


@settings(max_examples=300)
@given(cases)
def test_concat_is_the_joined_text_of_the_epochs_cut_into_rows(case: tuple[list[int], int, int]) -> None:
    lengths, seq_len, limit = case
    joined: list[tuple[int, int]] = []
    epoch = 0
    while len(joined) < limit:
        joined += [(int(i), token) for i in shuffled(len(lengths), epoch) for token in range(lengths[i])]
        epoch += 1
    expected = [joined[:limit][at : at + seq_len] for at in range(0, limit, seq_len)]
    rows = list(rest(concat(lengths, seq_len, limit)))
    got = [[(p.document, p.start + i) for p in row for i in range(p.length)] for row in rows]
    assert got == expected


@settings(max_examples=200)
@given(cases, st.data())
@pytest.mark.parametrize("make", [concat, best_fit])
def test_a_cursor_goes_on_exactly(make, case: tuple[list[int], int, int], data: st.DataObject) -> None:
    lengths, seq_len, limit = case
    whole = list(rest(make(lengths, seq_len, limit)))
    at = data.draw(st.integers(0, len(whole)))
    first = make(lengths, seq_len, limit)
    for _ in range(at):
        first.take()
    second = make(lengths, seq_len, limit)
    second.cursor = json.loads(json.dumps(first.cursor))
    assert (second.exhausted, second.epoch) == (first.exhausted, first.epoch)
    assert list(rest(second)) == whole[at:]


@settings(max_examples=200)
@given(cases, st.integers(1, 200), st.data())
@pytest.mark.parametrize("make", [concat, best_fit])
def test_a_cursor_holds_under_another_limit(
    make, case: tuple[list[int], int, int], other: int, data: st.DataObject
) -> None:
    """A higher limit reads what the lower one left out, and nothing twice; a lower one ends at once."""
    lengths, seq_len, limit = case
    first = make(lengths, seq_len, limit)
    read = [first.take()() for _ in range(data.draw(st.integers(0, len(list(rest(make(lengths, seq_len, limit)))))))]
    second = make(lengths, seq_len, other)
    second.cursor = first.cursor
    read += list(rest(second))
    tokens = [(piece.document, piece.start + i) for row in read for piece in row for i in range(piece.length)]
    unlimited = make(lengths, seq_len, 10_000)
    expected = [
        (piece.document, piece.start + i) for row in rest(unlimited) for piece in row for i in range(piece.length)
    ]
    assert tokens == expected[: len(tokens)]
    assert len(tokens) <= max(limit, other)


@settings(max_examples=200)
@given(cases, st.integers(8, 24), st.data())
def test_a_cursor_of_concat_holds_for_rows_of_another_length(
    case: tuple[list[int], int, int], other: int, data: st.DataObject
) -> None:
    lengths, seq_len, limit = case
    first = concat(lengths, seq_len, limit)
    read = [first.take()() for _ in range(data.draw(st.integers(0, -(-limit // seq_len))))]
    second = concat(lengths, other, limit)
    second.cursor = first.cursor
    rows = [*read, *rest(second)]
    whole = rest(concat(lengths, seq_len, limit))
    got, expected = (
        [(p.document, p.start + i) for row in part for p in row for i in range(p.length)] for part in (rows, whole)
    )
    assert got == expected


@settings(max_examples=200)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(8, 24), st.integers(1, 3))
def test_best_fit_reads_every_document_once_an_epoch(lengths: list[int], seq_len: int, epochs: int) -> None:
    stream = best_fit(lengths, seq_len, epochs * sum(lengths))
    seen = sorted((p.document, p.start + i) for row in rest(stream) for p in row for i in range(p.length))
    once = [(index, token) for index, length in enumerate(lengths) for token in range(length)]
    assert seen == sorted(once * epochs)
    assert stream.tokens_read == epochs * sum(lengths)


def test_best_fit_keeps_to_the_order_across_windows() -> None:
    """3000 rows of text in several windows: a document is at most a window away from its place."""
    lengths = np.random.default_rng(0).integers(5, 200, 4000).tolist()
    stream = BestFitRows(Lengths(lengths), lambda _: np.arange(len(lengths)), sum(lengths), 128, sum(lengths), 0.01)
    rows = list(rest(stream))
    place = np.cumsum(lengths) / 128
    moved = [abs(row - place[p.document]) for row, pieces in enumerate(rows) for p in pieces]
    assert len(rows) > 3000
    assert max(moved) < 300
    padding = 1 - sum(lengths) / (len(rows) * 128)
    assert padding < 0.01


def test_another_row_length_copies_no_token_and_reads_the_same_text(tmp_path: Path) -> None:
    store = build_store(tmp_path, random_documents(0, 50, 40))
    (bucket,) = store.train.values()
    documents = DocumentSet([bucket])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for seq_len in (16, 64):
        stream = ConcatRows(documents, lambda _: np.arange(50), bucket.num_tokens, seq_len, bucket.num_tokens)
        read = np.concatenate([documents.tokens(piece) for row in rest(stream) for piece in row])
        assert np.array_equal(read, bucket.tokens)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_documents_of_several_buckets_are_numbered_through(tmp_path: Path) -> None:
    texts = {"Law": [[5, 6], [7]], "Others": [[8, 9, 10]], "Arts": [[11]]}
    store = build_store(
        tmp_path, [document(f"{t}{i}", x, topic=t) for t, xs in texts.items() for i, x in enumerate(xs)]
    )
    documents = DocumentSet(list(store.train.values()))
    stream = ConcatRows(documents, lambda _: np.array([3, 0, 2, 1]), 11, 11, 11)
    read = [documents.tokens(piece).tolist() for piece in stream.take()()]
    assert read == [[8, 9, 10, EOS], [11, EOS], [7, EOS], [5, 6, EOS]]  # Arts, Law, Law, Others
    assert documents.locate(3)[0].key.topic == "Others"


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no real text: set REPRISE_CORPUS")
@pytest.mark.parametrize("seq_len", [1024, 2048, 8192])
def test_padding_on_real_text_is_under_one_percent(tmp_path: Path, seq_len: int) -> None:
    """A token is taken to be four bytes; each file is a bucket."""
    padding = positions = 0
    for path in sorted(CORPUS.glob("train-*.jsonl.zst")):
        with path.open("rb") as handle:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(handle), "utf-8")
            lengths = [len(json.loads(line)["text"].encode()) // 4 + 1 for line in lines]
        stream = best_fit(lengths, seq_len, sum(lengths), max_padding=0.01)
        rows = len(list(rest(stream)))
        padding += rows * seq_len - sum(lengths)
        positions += rows * seq_len
    assert positions > 10_000_000
    assert padding < 0.01 * positions
