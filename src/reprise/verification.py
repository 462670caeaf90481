"""The record of `reprise verify`: which files of a run were read, and what was damaged; the report shows it."""

from pathlib import Path

from typing_extensions import TypedDict

from reprise.records import record
from reprise.storage import read_checked

VERIFIED = "verified.json"


@record
class Verified(TypedDict):
    """Some files of a run that were read and compared."""

    what: str
    """A stage, `cache/STAGE`, or `inputs`: the files of the user, the base model among them."""
    manifest: str | None
    """Hash of the stage's manifest as it was then; null for what has no manifest that could be read."""
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
    """When it began to read, in UTC."""
    seconds: float
    """How long it took."""
    parts: list[Verified]
    """What was read."""


def read_verification(root: Path) -> Verification | None:
    """What `reprise verify` last wrote into a run's folder; None if it has not, or the file is damaged."""
    result: Verification | None = read_checked(root / VERIFIED)
    return result


def damage_of(result: Verification) -> list[str]:
    """All damaged or missing files of a verification."""
    return [sentence for part in result["parts"] for sentence in part["damage"]]
