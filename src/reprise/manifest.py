"""The manifest of a stage: what it was made from, what it wrote, and why it is stale."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.records import record
from reprise.storage import FileChecksum, InputRecord, digest, find_damage, write_json

MANIFEST = "manifest.json"


@record
class Comparison(TypedDict):
    """The result of reading a stage's files again and finding the checksums from their publication."""

    files: int
    """How many files were read."""
    bytes: int
    """Their total size in bytes."""
    seconds: float
    """Duration of the comparison."""


@record
@dataclass(frozen=True)
class Manifest:
    """The record that a published stage keeps of itself."""

    stage: str
    """Name of the stage."""
    fingerprint: str
    """Hash of everything that it was made from: `Derivation.fingerprint`."""
    content: str
    """Hash of the files that later stages read; equal content leaves them fresh."""
    settings: dict[str, object]
    """Settings that determine its output."""
    inputs: dict[str, str]
    """Stage that it read -> the content of that stage."""
    files: dict[str, InputRecord]
    """The user's file, by a name that does not depend on its folder."""
    outputs: dict[str, FileChecksum]
    """File of the stage, relative to its folder."""
    counts: dict[str, object]
    """Numbers of the stage: a record of its own, in docs/formats.md under `counts`."""
    seconds: float
    """Duration of the work."""
    hashing_seconds: float
    """Duration of computing the output checksums, after the work."""
    compared: dict[str, Comparison]
    """Stage that it read -> the comparison of its files before the work began; empty if this process had just
    written them."""
    version: str
    """Version of Reprise that wrote it."""
    finished: str
    """UTC time, ISO 8601."""
    precious: bool = False
    """Took so long to make that it is kept when its settings change."""
    removed: dict[str, FileChecksum] = field(default_factory=dict)
    """Outputs that were removed once they were read, to save disk space."""
    checksum: str = ""
    """Hash of the other fields."""

    @property
    def everything(self) -> str:
        """Hash of the whole manifest, for the report, which also shows counts and times."""
        return digest(vars(self) | {"outputs": self.outputs | self.removed, "removed": {}, "checksum": ""})


@dataclass(frozen=True)
class Derivation:
    """Everything that determines what a stage writes."""

    stage: str
    settings: dict[str, object]
    inputs: dict[str, str]
    """Stage that it reads -> the content of that stage."""
    files: dict[str, InputRecord]
    """The user's file, by a name that does not depend on its folder."""
    resumable: bool = False
    """Whether a killed run of the stage can be resumed."""
    precious: bool = False
    """Takes so long to make that nothing is discarded when a setting changes, unless the user asks for it."""
    records: tuple[str, ...] = ()
    """Patterns of outputs that no later stage but the report reads; they are not part of the content."""

    @property
    def fingerprint(self) -> str:
        """Hash of the settings, the content of the stages and the content of the files."""
        contents = {name: entry["xxh128"] for name, entry in self.files.items()}
        return digest({"stage": self.stage, "settings": self.settings, "inputs": self.inputs, "files": contents})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest from a file.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file is damaged.
    """
    try:
        entry = json.loads(path.read_bytes())
        if _checksum(entry) != entry["checksum"]:
            raise ValueError("its content is not what was written")
        return Manifest(**entry)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"the manifest is damaged ({reason})", where=str(path), remedy=f"delete {path.parent} and run again"
        ) from None


def refuse_damage(stage: Path, begin: str = "") -> None:
    """Compare the files in a stage's folder whose names start with `begin` with its manifest, if it has one.

    Raises:
        UserError: a file is missing, or differs from what was written.
    """
    if not (stage / MANIFEST).is_file():
        return
    outputs = {name: entry for name, entry in read_manifest(stage / MANIFEST).outputs.items() if name.startswith(begin)}
    if damage := find_damage(stage, outputs, content=True):
        raise UserError(
            damage[0],
            where=str(stage),
            remedy="bring back a copy of it, or delete that folder and run again; `reprise verify RECIPE` names all",
        )


def read_output(path: Path) -> Any:
    """Read the JSON value in a file that a stage published.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file differs from what was written.
    """
    refuse_damage(path.parent, path.name)
    return json.loads(path.read_text(encoding="utf-8"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with a checksum of itself."""
    entry = vars(manifest)
    write_json(folder / MANIFEST, entry | {"checksum": _checksum(entry)})


def _checksum(entry: Mapping[str, object]) -> str:
    return digest({name: value for name, value in entry.items() if name != "checksum"})


def differences(old: object, new: object, prefix: str = "") -> list[str]:
    """`name: old -> new` for each setting that changed."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{prefix}.{key}" if prefix else str(key)
            changes += differences(old.get(key), new.get(key), name)
        return changes
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{prefix}.{index}")]
    return [] if old == new else [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: object, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def stale_reasons(manifest: Manifest, derivation: Derivation) -> list[str]:
    """Why a stage is stale: what differs between its manifest and the current derivation."""
    reasons = differences(manifest.settings, derivation.settings)
    reasons += [f"{name} changed" for name, print_ in derivation.inputs.items() if manifest.inputs.get(name) != print_]
    for name in sorted(manifest.files.keys() | derivation.files.keys()):
        old, new = manifest.files.get(name), derivation.files.get(name)
        if old is None or new is None:
            reasons.append(f"{name} is {'new' if old is None else 'gone'}")
        elif old["xxh128"] != new["xxh128"]:
            reasons.append(f"{name} changed")
    return reasons
