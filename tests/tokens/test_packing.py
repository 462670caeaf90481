from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.tokens.packing import PlannedRow, pack


def best_fit_decreasing(lengths: list[int], seq_len: int) -> list[int]:
    """Tokens in each row, by looking at every open row: the plain rule."""
    used: list[int] = []
    for length in sorted((length % seq_len for length in lengths if length % seq_len), reverse=True):
        fitting = [row for row in range(len(used)) if used[row] + length <= seq_len]
        if fitting:
            used[max(fitting, key=lambda row: (used[row], -row))] += length
        else:
            used.append(length)
    return sorted(used + [seq_len for length in lengths for _ in range(length // seq_len)])


def fill(row: PlannedRow) -> int:
    return sum(length for _, _, length in row)


lengths_and_row = st.tuples(st.lists(st.integers(1, 70), max_size=40), st.integers(8, 32))


@settings(max_examples=300)
@given(lengths_and_row, st.sampled_from([0.0, 0.01, 0.2, 1.0]))
def test_every_token_is_in_exactly_one_piece(case: tuple[list[int], int], max_padding: float) -> None:
    lengths, seq_len = case
    rows = pack(lengths, seq_len, max_padding)
    seen = sorted((index, token) for row in rows for index, start, n in row for token in range(start, start + n))
    assert seen == [(index, token) for index, length in enumerate(lengths) for token in range(length)]
    assert all(0 < fill(row) <= seq_len for row in rows)


@settings(max_examples=300)
@given(lengths_and_row)
def test_without_a_limit_it_is_best_fit_decreasing_and_cuts_only_longer_documents(case: tuple[list[int], int]) -> None:
    lengths, seq_len = case
    rows = pack(lengths, seq_len)
    assert sorted(map(fill, rows)) == best_fit_decreasing(lengths, seq_len)
    for row in rows:
        for index, start, n in row:
            assert n in (seq_len, lengths[index] - start), "a piece is a full row or a whole rest"


@settings(max_examples=300)
@given(lengths_and_row, st.floats(0.0, 0.5))
def test_padding_stays_under_the_limit_up_to_one_row(case: tuple[list[int], int], max_padding: float) -> None:
    lengths, seq_len = case
    rows = pack(lengths, seq_len, max_padding)
    padding = len(rows) * seq_len - sum(lengths)
    assert padding <= max_padding * len(rows) * seq_len or padding < seq_len


@given(lengths_and_row)
def test_rows_follow_the_order_of_their_documents(case: tuple[list[int], int]) -> None:
    lengths, seq_len = case
    means = [sum(index for index, _, _ in row) / len(row) for row in pack(lengths, seq_len, 0.01)]
    assert means == sorted(means)


def test_worked_example() -> None:
    """Rows of 10: 25 = 10 + 10 + 5; then 7, 6, 5, 4, 3: 7 + 3, 6 + 4, and 5 alone."""
    rows = pack([3, 25, 6, 7, 4], 10)
    assert rows == [
        [(1, 0, 10)],
        [(1, 10, 10)],
        [(1, 20, 5)],
        [(0, 0, 3), (3, 0, 7)],
        [(2, 0, 6), (4, 0, 4)],
    ]


def test_a_limit_joins_and_cuts_the_emptiest_rows() -> None:
    """Five documents of 6 in rows of 10 leave 40 % empty; joined they fill three rows, two of the documents cut."""
    assert len(pack([6] * 5, 10)) == 5
    rows = pack([6] * 5, 10, max_padding=0.01)
    assert rows == [
        [(0, 0, 6), (1, 0, 4)],
        [(1, 4, 2), (2, 0, 6), (3, 0, 2)],
        [(3, 2, 4), (4, 0, 6)],
    ]
