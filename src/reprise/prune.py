"""`reprise prune`: list and remove what a run keeps besides its published stages."""

import shutil
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from reprise.records import record
from reprise.stage_names import DOCUMENT_STAGES, EVALUATE, SYNTHESIZE, TOKENIZE, VOCABULARY
from reprise.workspace import Workspace

Kind = Literal["kept", "cache", "unfinished"]


@record
class Prunable(TypedDict):
    """A folder in a workspace that can be removed."""

    kind: Kind
    """`kept`: a training stage made with other settings. `cache`: cached answers and results. `unfinished`: a stage
    that was started."""
    path: str
    bytes: int
    costs: str
    """What is lost by removing it."""


_CACHED = (*DOCUMENT_STAGES, VOCABULARY, SYNTHESIZE, TOKENIZE, EVALUATE)
"""Folders in `cache` that stages write; others belong to the user."""
_COSTS: dict[Kind, str] = {
    "kept": "training again if its settings return",
    "cache": "computing or asking again what a stage needs again",
    "unfinished": "the progress of that stage",
}


def list_prunable(workspace: Workspace) -> list[Prunable]:
    """List everything that can be removed without making a published stage stale, largest first."""
    root = workspace.root
    folders: list[tuple[Kind, Path]] = [
        *(("kept", path) for path in root.glob("*.kept-*")),
        *(("cache", path) for path in root.glob("cache/*") if path.name in _CACHED),
        *(("unfinished", path) for path in root.glob("*.partial")),
    ]
    entries: list[Prunable] = [
        {"kind": kind, "path": str(path), "bytes": folder_bytes(path), "costs": _COSTS[kind]} for kind, path in folders
    ]
    return sorted(entries, key=lambda entry: -entry["bytes"])


def folder_bytes(folder: Path) -> int:
    """Total bytes of the files in a folder, recursively."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(workspace: Workspace, kinds: set[Kind]) -> list[Prunable]:
    """Remove everything of the given kinds, and return what was removed.

    Raises:
        UserError: another process is using the workspace.
    """
    with workspace.locked():
        chosen = [entry for entry in list_prunable(workspace) if entry["kind"] in kinds]
        for entry in chosen:
            shutil.rmtree(entry["path"])
    return chosen
