"""Which tokens a larger vocabulary has besides the base model's, as the stage `vocabulary` lists them."""

from pathlib import Path
from typing import final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from reprise.records import record
from reprise.storage import write_json

NEW_TOKENS = "new_tokens.json"
"""Name of the list in the folder of the stage."""


@final
@record
class NewTokens(TypedDict):
    """The tokens that were added, in the order of their ids."""

    first_id: int
    """Id of the first of them; the others follow, and nothing comes after them."""
    tokens: list[str]
    """Their text; bytes that are no whole character show as U+FFFD."""


def read_new_tokens(folder: Path) -> NewTokens:
    """The list in the folder of the stage."""
    return TypeAdapter(NewTokens).validate_json((folder / NEW_TOKENS).read_bytes())


def write_new_tokens(folder: Path, tokens: NewTokens) -> None:
    """Write the list into the folder of the stage."""
    write_json(folder / NEW_TOKENS, tokens)
