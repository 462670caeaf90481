"""Best-fit decreasing: packs documents into rows with little padding and few cuts."""

from bisect import bisect_left, insort
from collections.abc import Sequence

PlannedPiece = tuple[int, int, int]
"""Index of the document in the window, first token, tokens."""
PlannedRow = list[PlannedPiece]


def pack(lengths: Sequence[int], seq_len: int, max_padding: float = 1.0) -> list[PlannedRow]:
    """Put documents into rows of at most `seq_len` tokens.

    A document longer than a row is cut into full rows and a rest. Then, longest first, each rest or document goes into
    the row whose gap it fits best, else into a new row: best-fit decreasing, as in Ding et al., arXiv 2404.10830. If
    that leaves more than `max_padding` of the positions empty, as few as possible of the emptiest rows are joined and
    cut instead. Rows are ordered by the mean position of their documents, so that a curriculum is preserved.

    Args:
        lengths: tokens of each document, above 0, in reading order.
        seq_len: tokens of a row.
        max_padding: largest share of padding, 0 to 1; 1 never cuts a document that fits into a row.

    Returns:
        Rows of pieces (index, start, length); every token of every document is in exactly one piece.
    """
    rows: list[PlannedRow] = []
    rests: list[PlannedPiece] = []
    for index, length in enumerate(lengths):
        cut = length - length % seq_len
        rows += [[(index, start, seq_len)] for start in range(0, cut, seq_len)]
        if length > cut:
            rests.append((index, cut, length - cut))
    rests.sort(key=lambda piece: (-piece[2], piece[0]))
    open_rows: list[PlannedRow] = []
    gaps: list[tuple[int, int]] = []  # sorted (gap, row)
    for piece in rests:
        best = bisect_left(gaps, (piece[2], -1))
        if best == len(gaps):
            open_rows.append([piece])
            gap, row = seq_len - piece[2], len(open_rows) - 1
        else:
            gap, row = gaps.pop(best)
            open_rows[row].append(piece)
            gap -= piece[2]
        if gap:
            insort(gaps, (gap, row))
    rows += _with_less_padding(open_rows, seq_len, max_padding, num_full=len(rows))
    return sorted(map(sorted, rows), key=lambda row: (sum(index for index, _, _ in row) / len(row), row))


def _with_less_padding(rows: list[PlannedRow], seq_len: int, max_padding: float, num_full: int) -> list[PlannedRow]:
    """Join and cut the emptiest rows, as few as needed, so that at most `max_padding` of all positions are padding."""
    used = [sum(length for _, _, length in row) for row in rows]
    by_fill = sorted(range(len(rows)), key=lambda row: (used[row], row))
    num_rows, padding, joined_tokens = len(rows) + num_full, len(rows) * seq_len - sum(used), 0
    for count, row in enumerate(by_fill):
        saved = count - -(-joined_tokens // seq_len)  # rows; joining `count` rows saves this many
        if padding - saved * seq_len <= max_padding * (num_rows - saved) * seq_len:
            return [rows[i] for i in by_fill[count:]] + _joined([rows[i] for i in by_fill[:count]], seq_len)
        joined_tokens += used[row]
    return _joined(rows, seq_len)


def _joined(rows: list[PlannedRow], seq_len: int) -> list[PlannedRow]:
    """The concatenated pieces of the rows, cut every `seq_len` tokens."""
    joined: list[PlannedRow] = []
    room = 0
    for index, start, length in sorted(piece for row in rows for piece in row):
        while length:
            if not room:
                joined.append([])
                room = seq_len
            part = min(length, room)
            joined[-1].append((index, start, part))
            start, length, room = start + part, length - part, room - part
    return joined
