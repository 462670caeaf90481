"""The records of a larger vocabulary: what the stage `vocabulary` counts and lists."""

from collections.abc import Iterator
from typing import final

from typing_extensions import TypedDict

from reprise.records import record


@record
class Compression(TypedDict):
    """Bytes of text per token, with the base model's vocabulary and with the larger one."""

    language: str
    """Language of the text."""
    held_out: bool
    """Whether the text was held out; a language without held-out documents is measured on the text learned from."""
    num_bytes: int
    """UTF-8 bytes of that text."""
    before: float
    """UTF-8 bytes per token of the base model."""
    after: float
    """UTF-8 bytes per token of the larger vocabulary."""


@final
@record
class VocabularyCounts(TypedDict):
    """Counts of the stage `vocabulary`, for its manifest, the plan and the report."""

    tokens_added: int
    """New tokens."""
    first_id: int
    """Id of the first new token; the others follow."""
    rows: int
    """Rows of the embeddings now."""
    bytes_learned_from: int
    """UTF-8 bytes of the text that the tokens were learned from."""
    compression: list[Compression]
    """Bytes per token of each language."""


def vocabulary_lines(counts: VocabularyCounts) -> Iterator[str]:
    """Format the counts of the stage for the terminal."""
    yield (
        f"vocabulary: {counts['tokens_added']:,} tokens added, learned from {counts['bytes_learned_from'] / 1e6:,.3g} "
        f"MB; {counts['rows']:,} rows of embeddings"
    )
    for row in counts["compression"]:
        kind = "held-out text" if row["held_out"] else "the text that was learned from"
        yield f"{row['language']}: {row['before']:.2f} -> {row['after']:.2f} bytes per token on {kind}"
