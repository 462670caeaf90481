"""The record of `reprise verify`: which files were read and which were damaged; shown in the report."""

from pathlib import Path

from typing_extensions import TypedDict

from reprise.records import record
from reprise.storage import read_checked

VERIFIED = "verified.json"


@record
class Verified(TypedDict):
    """A group of files of a run that were read and compared."""

    what: str
    """A stage, `cache/STAGE`, or `inputs`: the files of the user, the base model among them."""
    manifest: str | None
    """Hash of the stage's manifest at that time; null without a readable manifest."""
    files: int
    """How many files were read."""
    bytes: int
    """Their size."""
    damage: list[str]
    """The files that are missing or damaged, a sentence each."""


@record
class Verification(TypedDict):
    """The result of `reprise verify`, kept with its checksum in `WORKSPACE/verified.json`."""

    when: str
    """Start time, in UTC."""
    seconds: float
    """Duration."""
    parts: list[Verified]
    """What was read."""


def read_verification(root: Path) -> Verification | None:
    """Read the last result of `reprise verify` for a run; None if there is none, or the file is damaged."""
    result: Verification | None = read_checked(root / VERIFIED)
    return result


def damage_of(result: Verification) -> list[str]:
    """All damaged or missing files in a verification."""
    return [sentence for part in result["parts"] for sentence in part["damage"]]
