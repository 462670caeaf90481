"""The list of tokens that the stage `vocabulary` added to the base model's."""

from pathlib import Path
from typing import final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from reprise.records import record
from reprise.storage import write_json

NEW_TOKENS = "new_tokens.json"
"""File name of the list in the stage's folder."""


@final
@record
class NewTokens(TypedDict):
    """The tokens that were added, in the order of their ids."""

    first_id: int
    """Id of the first new token; the others follow, and they are the last of the vocabulary."""
    tokens: list[str]
    """Text of the new tokens; incomplete UTF-8 bytes are shown as U+FFFD."""


def read_new_tokens(folder: Path) -> NewTokens:
    """Read the list from the stage's folder."""
    return TypeAdapter(NewTokens).validate_json((folder / NEW_TOKENS).read_bytes())


def write_new_tokens(folder: Path, tokens: NewTokens) -> None:
    """Write the list to the stage's folder."""
    write_json(folder / NEW_TOKENS, tokens)
