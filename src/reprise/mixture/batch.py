"""A batch: the rows of one process, with the labels and positions that training needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from reprise.mixture.shares import MixtureBucket, ShareChange
from reprise.tokens.rows import DocumentSet, Row

NO_LOSS = -100
"""Label of a position that is not trained on."""


@dataclass(frozen=True)
class Batch:
    """The rows of one process in one global batch."""

    ids: npt.NDArray[np.int64]
    """int64[rows, seq_len]: token ids; padding is the EOS id."""
    pieces: list[Row]
    """`pieces[i]` are the pieces of row i."""
    buckets: list[MixtureBucket]
    """`buckets[i]` is the bucket of row i."""
    document_mask: bool
    no_loss: npt.NDArray[np.bool_] | None = None
    """[rows, seq_len]: True at the positions of conversations that are not trained on; None if there are none."""
    changes: list[ShareChange] = field(default_factory=list)
    """Shares that changed while the batch was dealt, because a bucket ran out."""

    @cached_property
    def documents(self) -> npt.NDArray[np.int32]:
        """[rows, seq_len]: index of the document within its row, from 0; -1 for padding."""
        documents = np.full(self.ids.shape, -1, dtype=np.int32)
        for row, pieces in enumerate(self.pieces):
            start = 0
            for index, piece in enumerate(pieces):
                documents[row, start : start + piece.length] = index
                start += piece.length
        return documents

    @cached_property
    def starts(self) -> list[list[int]]:
        """For each row, the positions at which its documents begin; the first is 0, even inside a document."""
        return [[0, *np.cumsum([piece.length for piece in pieces[:-1]]).tolist()] for pieces in self.pieces]

    @cached_property
    def position_ids(self) -> npt.NDArray[np.int64]:
        """[rows, seq_len]: position within the document's piece; with no document mask, within the row."""
        positions = np.broadcast_to(np.arange(self.ids.shape[1]), self.ids.shape).copy()
        if self.document_mask:
            for row, starts in enumerate(self.starts):
                for start in starts[1:]:
                    positions[row, start:] = np.arange(self.ids.shape[1] - start)
        return positions

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """[rows, seq_len]: the ids; NO_LOSS at padding, outside the answers of a conversation and, with a document
        mask, at the first token of a document.

        Not shifted: transformers' models compare position i with the prediction from position i - 1, which at a
        document's first token belongs to another document.
        """
        labels = self.ids.copy()
        labels[self.documents < 0] = NO_LOSS
        if self.no_loss is not None:
            labels[self.no_loss] = NO_LOSS
        if self.document_mask:
            for row, starts in enumerate(self.starts):
                labels[row, starts] = NO_LOSS
        return labels


def gather_row(documents: DocumentSet, pieces: Row, out: npt.NDArray[np.int64]) -> None:
    """Copy the tokens of a row into `out`, int64[seq_len]."""
    start = 0
    for piece in pieces:
        out[start : start + piece.length] = documents.tokens(piece)
        start += piece.length


def mask_conversations(
    documents: Sequence[DocumentSet], pieces: Sequence[Row], seq_len: int
) -> npt.NDArray[np.bool_] | None:
    """bool[rows, seq_len]: True at tokens of conversations that are not part of an answer; None if there are none."""
    if not any(one.has_conversations for one in documents):
        return None
    masked = np.zeros((len(pieces), seq_len), dtype=bool)
    for row, (one, row_pieces) in enumerate(zip(documents, pieces, strict=True)):
        start = 0
        for piece in row_pieces:
            for first, stop in one.stretches_without_loss(piece):
                masked[row, start + first : start + stop] = True
            start += piece.length
    return masked
