"""Read back what the document stages did not keep. Imports without Daft."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reprise.documents.table import DROPPED, read_table

STAGES = ("read", "clean", "deduplicate", "decontaminate")


def read_rejects(root: Path, stage: str | None = None, reason: str | None = None) -> Iterator[dict[str, Any]]:
    """What was rejected or dropped, in the order of the stages and of their documents.

    Args:
        root: the workspace.
        stage: only of this stage.
        reason: only for this reason.

    Yields:
        {stage, reason, origin, detail, text}; for what could not be read, also with the keys lang and source set to
        None, and the excerpt as text.
    """
    for name in STAGES if stage is None else (stage,):
        for entry in _of_stage(root / name, name):
            if reason in (None, entry["reason"]):
                yield entry


def _of_stage(folder: Path, stage: str) -> Iterator[dict[str, Any]]:
    rejects = folder / "rejects.jsonl"
    if rejects.exists():
        with rejects.open(encoding="utf-8") as lines:
            for line in lines:
                reject = json.loads(line)
                origin = f"{reject['file']}:{reject['line']}"
                entry = {"stage": stage, "reason": reject["reason"], "origin": origin, "lang": None, "source": None}
                yield {**entry, "detail": "", "text": reject["excerpt"]}
    for batch in read_table(folder / DROPPED):
        for row in batch.to_pylist():
            yield {
                "stage": stage,
                **{name: row[name] for name in ("reason", "origin", "lang", "source", "detail", "text")},
            }
