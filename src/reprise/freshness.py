"""Which stages of a run are up to date: their inputs and settings now, compared with those they were made from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from reprise.documents.read.files import SourceFile
from reprise.errors import UserError
from reprise.manifest import Derivation, Manifest
from reprise.recipe import Recipe
from reprise.recipe.fields import decisive
from reprise.stages import Stage, stages
from reprise.storage import InputRecord, printable, record_input
from reprise.workspace import Status, Workspace

UNREAD = "not read yet"
"""Stands for the checksum of a new or changed file when files must not be read."""


def walk_stages(
    recipe: Recipe, workspace: Workspace, until: Sequence[str] | None = None, *, read_files: bool = True
) -> Iterator[tuple[Stage, Derivation | None, Status]]:
    """Yield each stage of `until` and its needs, with its derivation (what it would be made from now) and status.

    The derivation is None until the stages before are fresh. Each stage is examined when the iterator reaches it, so a
    caller can run a stale stage before the next one is examined.

    Args:
        recipe: the run.
        workspace: folder of the run.
        until: names of stages; None: all.
        read_files: whether new or changed files of the user are read to compute checksums; if False, a stage that
            depends on such a file is stale.
    """
    every = stages(recipe)
    chosen = with_needs(every, until)
    records: dict[str, InputRecord] = {}
    waiting: set[str] = set()
    for stage in every:
        if stage.name not in chosen:
            continue
        manifest = workspace.manifest(stage.name)
        older = [name for name in stage.needs if name in waiting]
        derivation = None
        if older:
            state: Literal["stale", "missing"] = "stale" if manifest else "missing"
            status = Status(state, f"{', '.join(older)} must run first" if manifest else "has not run")
        else:
            derivation = _derive(stage, workspace, manifest, records, read_files)
            status = workspace.status(derivation)
            if status.state == "fresh" and manifest and (reason := stage.outdated(manifest.counts)):
                status = Status("stale", reason)
        yield stage, derivation, status
        if workspace.manifest(stage.name) is None or (derivation is None or _is_stale(workspace, derivation)):
            waiting.add(stage.name)


def _is_stale(workspace: Workspace, derivation: Derivation) -> bool:
    return workspace.status(derivation).state != "fresh"


def _derive(
    stage: Stage,
    workspace: Workspace,
    manifest: Manifest | None,
    records: dict[str, InputRecord],
    read_files: bool,
) -> Derivation:
    """Compute what a stage would be made from now; the stages that it needs must be fresh.

    Args:
        stage: the stage.
        workspace: folder of the run.
        manifest: manifest of the published stage.
        records: records of the user's files examined so far, by path; updated.
        read_files: as in `walk_stages`.
    """
    files = {}
    for name, file in stage.files().items():
        path = printable(file.path if isinstance(file, SourceFile) else str(file))
        if path not in records:
            records[path] = _record(file, manifest.files.get(printable(name)) if manifest else None, read_files)
        files[printable(name)] = records[path]
    inputs = {}
    for name in stage.needs:
        needed = workspace.manifest(name)
        assert needed is not None, "a stage is derived once those that it needs are published"
        inputs[name] = needed.everything if stage.reads_records else needed.content
    return Derivation(
        stage=stage.name,
        settings={"version": stage.version, **{name: decisive(value) for name, value in stage.settings.items()}},
        inputs=inputs,
        files=files,
        resumable=stage.resumable,
        precious=stage.precious,
        records=stage.records,
    )


def _record(file: Path | SourceFile, known: InputRecord | None, read_files: bool) -> InputRecord:
    """Identity of a file: its checksum, or its size if it is in an object store, where checksums would read it all."""
    if isinstance(file, SourceFile):
        return {"path": printable(file.path), "size": file.size, "mtime_ns": 0, "xxh128": f"{file.size} bytes"}
    if read_files:
        return record_input(file, known)
    stat = file.stat()
    same = known is not None and (known["size"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
    content = known["xxh128"] if known and same else UNREAD
    return {"path": printable(str(file)), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "xxh128": content}


def statuses(recipe: Recipe, workspace: Workspace) -> list[tuple[str, Status]]:
    """Name and status of every stage, in order."""
    return [(stage.name, status) for stage, _, status in walk_stages(recipe, workspace)]


def with_needs(every: Sequence[Stage], until: Sequence[str] | None) -> set[str]:
    """Names of the stages of `until` (None: all) and of all stages that they need.

    Raises:
        UserError: the recipe has no such stage.
    """
    by_name = {stage.name: stage for stage in every}
    chosen: set[str] = set()
    queue = list(by_name if until is None else until)
    while queue:
        name = queue.pop()
        if name not in by_name:
            raise UserError(f"this recipe has no stage `{name}`", remedy=f"its stages are {', '.join(by_name)}")
        if name not in chosen:
            chosen.add(name)
            queue += by_name[name].needs
    return chosen
