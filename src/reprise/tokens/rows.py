"""Rows of equal length over documents in a given order: an index; no token is copied until a row is read.

A row is a list of pieces: consecutive tokens of documents, one after the other. `ConcatRows` and `BestFitRows` return
them in order, epoch after epoch, up to a limit. Their `cursor` is the position; seeking costs the same everywhere.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from reprise.tokens.packing import pack
from reprise.tokens.store import Bucket

Order = npt.NDArray[np.int64]
"""Indices of documents, in the order in which they are read."""
OrderOfEpoch = Callable[[int], Order]

WINDOW_ROWS = 256
"""`best_fit` packs the documents of about this many rows at a time; no document moves farther than that."""


class Piece(NamedTuple):
    """Consecutive tokens of a document inside a row."""

    document: int
    """Index in the `DocumentSet`."""
    start: int
    """First token, counted from the beginning of the document."""
    length: int
    """Number of tokens, BOS and EOS included."""


Row = list[Piece]
"""The pieces of a row, in order; the rest of the row is padding."""


class DocumentSet:
    """The documents of one or several buckets under one numbering."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self.buckets = list(buckets)
        counts = [bucket.num_documents for bucket in self.buckets]
        self._first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
        self.num_tokens = sum(bucket.num_tokens for bucket in self.buckets)

    def __len__(self) -> int:
        return int(self._first[-1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [documents]: tokens of each document."""
        return _joined([np.diff(bucket.offsets) for bucket in self.buckets], np.int64)

    @cached_property
    def ppl(self) -> npt.NDArray[np.float32]:
        """float32 [documents]: perplexity, NaN if it was not scored."""
        return _joined([bucket.ppl for bucket in self.buckets], np.float32)

    @cached_property
    def grade(self) -> npt.NDArray[np.float32]:
        """float32 [documents]: quality from 0 to 5, NaN if it was not graded."""
        return _joined([bucket.grade for bucket in self.buckets], np.float32)

    def locate(self, document: int) -> tuple[Bucket, int]:
        """The bucket of a document and its index there."""
        if len(self.buckets) == 1:
            return self.buckets[0], document
        bucket = int(np.searchsorted(self._first, document, side="right")) - 1
        return self.buckets[bucket], document - int(self._first[bucket])

    def tokens(self, piece: Piece) -> npt.NDArray[Any]:
        """uint16 or uint32 [piece.length]: a view, not a copy."""
        bucket, index = self.locate(piece.document)
        start = int(bucket.offsets[index]) + piece.start
        return bucket.tokens[start : start + piece.length]

    @cached_property
    def has_conversations(self) -> bool:
        """Whether any document is a conversation."""
        return any(bucket.num_conversations for bucket in self.buckets)

    @property
    def answer_share(self) -> float | None:
        """Tokens of answers among all tokens; None if no document is a conversation."""
        if not self.has_conversations:
            return None
        return sum(bucket.answer_tokens for bucket in self.buckets) / max(1, self.num_tokens)

    @cached_property
    def bytes_per_token(self) -> float | None:
        """Mean UTF-8 bytes of text per token; None without tokens, and if any document is a conversation, as only the
        bytes of its answers are known."""
        if self.has_conversations or not self.num_tokens:
            return None
        return float(sum(int(bucket.num_bytes.sum()) for bucket in self.buckets) / self.num_tokens)

    def stretches_without_loss(self, piece: Piece) -> list[tuple[int, int]]:
        """(start, stop) ranges without loss within a piece of a conversation; empty for other documents."""
        bucket, index = self.locate(piece.document)
        answers = bucket.answers(index)
        if not len(answers):
            return []
        bounds = [0, *answers[:, [0, 2]].ravel().tolist(), piece.start + piece.length]
        clipped = [min(max(bound - piece.start, 0), piece.length) for bound in bounds]
        return [(start, stop) for start, stop in zip(clipped[::2], clipped[1::2], strict=True) if start < stop]


class RowStream(Protocol):
    """Returns the rows of a bucket one by one."""

    @property
    def exhausted(self) -> bool:
        """Whether there is no further row."""

    @property
    def epoch(self) -> int:
        """Complete passes over the documents."""

    @property
    def tokens_read(self) -> int:
        """Tokens of documents in the rows returned so far."""

    cursor: list[int]
    """Where the next row begins; serializable as JSON."""

    def take(self) -> Callable[[], Row]:
        """Advance by one row; the returned function computes its pieces."""


class ConcatRows:
    """Documents joined and cut every `seq_len` tokens, across epochs: every token of each epoch is in exactly one row.

    Only the last row before the limit may be short.
    """

    def __init__(
        self, documents: DocumentSet, order_of_epoch: OrderOfEpoch, epoch_tokens: int, seq_len: int, limit_tokens: int
    ) -> None:
        """Start at the first row.

        Args:
            documents: the documents of the bucket.
            order_of_epoch: epoch, from 0 -> indices of its documents in reading order, the same set in every epoch.
            epoch_tokens: tokens of these documents.
            seq_len: tokens of a row.
            limit_tokens: tokens that may be read in total.
        """
        self._documents, self._order_of_epoch, self._seq_len = documents, order_of_epoch, seq_len
        self._epoch_tokens, self._limit = epoch_tokens, limit_tokens
        self._position = 0
        self._layouts: dict[int, tuple[Order, npt.NDArray[np.int64]]] = {}

    @property
    def exhausted(self) -> bool:
        """See `RowStream`."""
        return self._position >= self._limit

    @property
    def epoch(self) -> int:
        """See `RowStream`."""
        return self._position // self._epoch_tokens

    @property
    def tokens_read(self) -> int:
        """See `RowStream`."""
        return self._position

    @property
    def cursor(self) -> list[int]:
        """[epoch, token within the epoch]."""
        return list(divmod(self._position, self._epoch_tokens))

    @cursor.setter
    def cursor(self, value: Sequence[int]) -> None:
        self._position = value[0] * self._epoch_tokens + value[1]

    def take(self) -> Callable[[], Row]:
        """See `RowStream`."""
        start = self._position
        self._position = min(start + self._seq_len, self._limit)  # a later, higher limit resumes after the last token
        size = self._position - start
        return lambda: self._pieces(start, size)

    def _pieces(self, position: int, size: int) -> Row:
        row: Row = []
        while size > 0:
            epoch, offset = divmod(position, self._epoch_tokens)
            order, ends = self._layout(epoch)
            index = int(np.searchsorted(ends, offset, side="right"))
            while size > 0 and index < len(order):
                document, end = int(order[index]), int(ends[index])
                length = min(end - offset, size)
                row.append(Piece(document, int(self._documents.lengths[document]) - (end - offset), length))
                offset, position, size, index = offset + length, position + length, size - length, index + 1
        return row

    def _layout(self, epoch: int) -> tuple[Order, npt.NDArray[np.int64]]:
        """Order of an epoch and where each of its documents ends; the results of two epochs are cached."""
        if epoch not in self._layouts:
            if len(self._layouts) > 1:
                del self._layouts[min(self._layouts)]
            order = self._order_of_epoch(epoch)
            self._layouts[epoch] = (order, np.cumsum(self._documents.lengths[order]))
        return self._layouts[epoch]


class BestFitRows:
    """Whole documents, packed window by window (see `packing.pack`); longer ones are cut into full rows and a rest."""

    def __init__(
        self,
        documents: DocumentSet,
        order_of_epoch: OrderOfEpoch,
        epoch_tokens: int,
        seq_len: int,
        limit_tokens: int,
        max_padding: float = 1.0,
    ) -> None:
        """Start at the first row.

        Args:
            documents: the documents of the bucket.
            order_of_epoch: epoch, from 0 -> indices of its documents in reading order, the same set in every epoch.
            epoch_tokens: tokens of these documents.
            seq_len: tokens of a row.
            limit_tokens: tokens that may be read in total; the first row that would exceed it is not returned.
            max_padding: see `packing.pack`.
        """
        self._documents, self._order_of_epoch, self._seq_len = documents, order_of_epoch, seq_len
        self._epoch_tokens, self._limit, self._max_padding = epoch_tokens, limit_tokens, max_padding
        self._order_epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._epoch = self._first = self._index = 0
        """The window of the next row, and the row within it."""
        self._before = 0
        """Tokens of the documents before the window."""
        self._rows: list[Row] | None = None
        """Rows of the window; None before it is packed."""
        self._ends: list[int] = []
        """Tokens up to the end of each row of the window."""

    @property
    def exhausted(self) -> bool:
        """See `RowStream`."""
        if self._before >= self._limit:
            return True
        if self._rows is None and self._before + self._seq_len <= self._limit:
            return self._epoch_tokens == 0  # any row fits: no window needs to be packed to know
        rows = self._window()
        return not rows or self._before + self._ends[self._index] > self._limit

    @property
    def epoch(self) -> int:
        """See `RowStream`."""
        return self._epoch

    @property
    def tokens_read(self) -> int:
        """See `RowStream`."""
        return self._before + (self._ends[self._index - 1] if self._index else 0)

    @property
    def cursor(self) -> list[int]:
        """[epoch, first document of the window in the order of the epoch, row within the window]."""
        return [self._epoch, self._first, self._index]

    @cursor.setter
    def cursor(self, value: Sequence[int]) -> None:
        self._epoch, self._first, self._index = value
        self._before = self._epoch * self._epoch_tokens
        if self._first:
            self._before += int(self._documents.lengths[self._order_now()[: self._first]].sum())
        self._rows = None
        if self._index:
            self._window()

    def take(self) -> Callable[[], Row]:
        """See `RowStream`."""
        rows = self._window()
        row = rows[self._index]
        self._index += 1
        if self._index == len(rows):
            self._before += self._ends[-1]
            self._first = self._stop
            if self._first >= len(self._order):
                self._epoch, self._first = self._epoch + 1, 0
            self._index, self._rows = 0, None
        return lambda: row

    def _window(self) -> list[Row]:
        """The rows of the window, packed on first use. They do not depend on the limit."""
        if self._rows is None:
            ahead = self._order_now()[self._first : self._first + WINDOW_ROWS * self._seq_len]
            lengths = self._documents.lengths[ahead]
            full = int(np.searchsorted(np.cumsum(lengths), WINDOW_ROWS * self._seq_len)) + 1
            window = ahead[:full]
            self._stop = self._first + len(window)
            packed = pack(lengths[:full].tolist(), self._seq_len, self._max_padding)
            self._rows = [[Piece(int(window[index]), start, length) for index, start, length in row] for row in packed]
            self._ends = np.cumsum([sum(piece.length for piece in row) for row in self._rows]).tolist()
        return self._rows

    def _order_now(self) -> Order:
        """The documents of the epoch, in order."""
        if self._epoch != self._order_epoch:
            self._order_epoch, self._order = self._epoch, self._order_of_epoch(self._epoch)
        return self._order


def _joined(parts: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype=dtype), *parts])
