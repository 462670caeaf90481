"""Read back what the stages dropped, removed from documents or could not read. Imports without Daft."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from reprise.documents.table import DROPPED, REMOVED, read_table
from reprise.errors import UserError
from reprise.stage_names import DROPPING_STAGES


class RejectedDocument(TypedDict):
    """A document that was rejected or dropped, or lost a part of its text."""

    stage: str
    reason: str
    origin: str
    lang: str | None
    """None for a record that could not be read."""
    source: str | None
    detail: str
    text: str
    """The text, what was removed from it, or an excerpt of a record that could not be read."""


def read_rejects(root: Path, stage: str | None = None, reason: str | None = None) -> Iterator[RejectedDocument]:
    """What was rejected or dropped, in the order of the stages and of their documents.

    For a stage that stopped before it was published, for example because it dropped too much, this is what it wrote.

    Args:
        root: the workspace.
        stage: only what this stage dropped; None: all stages.
        reason: only what was dropped for this reason; None: all reasons.

    Raises:
        UserError: no stage of this name drops documents.
    """
    if stage is not None and stage not in DROPPING_STAGES:
        near = difflib.get_close_matches(stage, DROPPING_STAGES, 1)
        raise UserError(
            f"no stage {stage!r} drops documents" + (f"; did you mean {near[0]}?" if near else ""),
            where=f"--stage {stage}",
            remedy=f"name one of {', '.join(DROPPING_STAGES)}",
        )
    return _read_stages(root, DROPPING_STAGES if stage is None else (stage,), reason)


def nothing_rejected(root: Path, stage: str | None, reason: str | None) -> str:
    """One line to print for an empty list: which stages dropped nothing, or that none has finished.

    Args:
        root: the workspace.
        stage: the stage that was selected; None: all.
        reason: the reason that was selected; None: all.
    """
    asked = DROPPING_STAGES if stage is None else (stage,)
    finished = [name for name in asked if (root / name).is_dir()]
    if not finished:
        return f"nothing to show: of {', '.join(asked)} no stage has finished in {root}"
    return f"nothing was rejected or dropped{f' for {reason}' if reason else ''} by: {', '.join(finished)}"


def _read_stages(root: Path, stages: tuple[str, ...], reason: str | None) -> Iterator[RejectedDocument]:
    for name in stages:
        unfinished = root / f"{name}.partial"
        for document in _of_stage(unfinished if unfinished.is_dir() else root / name, name):
            if reason in (None, document["reason"]):
                yield document


def _of_stage(folder: Path, stage: str) -> Iterator[RejectedDocument]:
    rejects = folder / "rejects.jsonl"
    if rejects.exists():
        with rejects.open(encoding="utf-8") as lines:
            for line in lines:
                reject = json.loads(line)
                yield RejectedDocument(
                    stage=stage,
                    reason=reject["reason"],
                    origin=f"{reject['file']}:{reject['line']}",
                    lang=None,
                    source=None,
                    detail="",
                    text=reject["excerpt"],
                )
    names = ("reason", "origin", "lang", "source", "detail", "text")
    for table in (DROPPED, REMOVED):
        for batch in read_table(folder / table):
            for row in batch.to_pylist():
                yield RejectedDocument(stage=stage, **{name: row[name] for name in names})  # type: ignore[typeddict-item]
