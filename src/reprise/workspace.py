"""The folder of a run: atomic publication, manifest, fingerprint.

    WORKSPACE/
      recipe.yaml            the resolved recipe of the last command
      STAGE/                 a published stage; complete if it exists
        manifest.json        written last, before the folder is published
      STAGE/documents/       of a document stage; removed once read if documents.keep_text is false
      STAGE.kept-HASH/       a precious stage (training) made under other settings; restored when they return
      STAGE.partial/         an unfinished stage, running or killed; never read by another stage
        begun.json           the fingerprint and settings it was started with
      cache/STAGE/           cached answers and results, keyed by content; kept when settings change

A stage depends on the settings, stages and files that it declares, and on nothing else, so its fingerprint is exact.
It depends on the content of these stages and files, not on their location: a stage that is made again with the same
output leaves the stages after it fresh.
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypedDict

from reprise import __version__
from reprise.errors import UserError
from reprise.manifest import (
    MANIFEST,
    Comparison,
    Derivation,
    Manifest,
    differences,
    read_manifest,
    stale_reasons,
    write_manifest,
)
from reprise.mirror import Mirror
from reprise.processes import Processes
from reprise.recipe.loading import KEPT, KEPT_MARK
from reprise.storage import (
    digest,
    file_checksum,
    find_damage,
    is_being_written,
    link_file,
    sync,
    write_json,
    write_text,
)

_BEGUN = "begun.json"
_OUTSIDE = ("report.html", "report.json", "verified.json")
"""Files that a run writes to the workspace besides its recipe."""


@dataclass
class Work:
    """Folders, counts and processes of a stage while it runs."""

    output: Path
    """Unpublished folder of the stage, to write to."""
    inputs: Mapping[str, Path]
    """Stage that it needs -> its folder."""
    cache: Path
    """Folder for cached results, keyed by content and kept when settings change; created on first use."""
    counts: dict[str, object] = field(default_factory=dict)
    """Counts for the manifest and the report."""
    outside: list[Path] = field(default_factory=list)
    """Files that the stage writes outside its folder, such as the report; if one is missing, the stage is stale."""
    adopt: bool = False
    """Whether to resume even if the stage was started with other settings."""
    compared: dict[str, Comparison] = field(default_factory=dict)
    """Stage that it reads -> comparison of its files with their checksums."""
    mirror: Mirror | None = None
    """Where checkpoints are copied to while the stage runs; None in all processes but the first, or without one."""
    processes: Processes = field(default_factory=Processes)
    """Processes of the command. Some stages run in all of them, others in the first, which may share out its work."""


class Begun(TypedDict):
    """What an unpublished stage was begun with: `begun.json`."""

    fingerprint: str
    settings: dict[str, object]


@dataclass(frozen=True)
class Status:
    """Whether a stage must run, and why."""

    state: Literal["fresh", "stale", "missing"]
    reason: str


class Workspace:
    """The folder of a run."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder(self, stage: str) -> Path:
        """Folder of a published stage."""
        return self.root / stage

    def adopt_finished(self) -> None:
        """Publish stages that were killed between writing the manifest and the rename, and remove partial files."""
        for partial in self.root.glob("*.partial"):
            if (partial / MANIFEST).exists():
                (partial / _BEGUN).unlink(missing_ok=True)
                self._replace(partial, partial.with_suffix(""))
        for retired in self.root.glob("*.retired"):
            shutil.rmtree(retired)
        for leftover in [*self.root.glob(".*.tmp"), *(self.root / "cache").rglob(".*.tmp")]:
            if not is_being_written(leftover):
                leftover.unlink(missing_ok=True)

    def keep_recipe(self, text: str) -> None:
        """Save the resolved recipe, so that the folder alone describes the run.

        Args:
            text: text of the recipe, see `recipe.loading.format_kept`.

        Raises:
            UserError: the user has a file with this name there, such as the recipe itself if the workspace is `.`,
                or the folder is not a run yet and contains files that a run would overwrite.
        """
        path = self.root / KEPT
        if not path.exists() and not any(self.root.glob(f"*/{MANIFEST}")):
            refuse_to_replace(self.root, _OUTSIDE, "a run")
        kept = path.read_bytes() if path.exists() else None
        if kept is not None and not kept.startswith(KEPT_MARK.encode()):
            raise UserError(
                "this file was not written by a run, and a run keeps its recipe under this name",
                where=str(path),
                remedy="name a folder of its own for the run (workspace=...), or move the file",
            )
        if kept != text.encode():
            write_text(path, text)

    def manifest(self, stage: str) -> Manifest | None:
        """Manifest of a published stage; None if it is not published.

        Raises:
            UserError: the manifest exists but cannot be read.
        """
        path = self.folder(stage) / MANIFEST
        try:
            return read_manifest(path)
        except FileNotFoundError:
            return None

    def damage(self, manifest: Manifest) -> str | None:
        """Describe the first output file that is missing or differs in size from the manifest; None if all match."""
        damage = find_damage(self.folder(manifest.stage), manifest.outputs, content=False)
        return damage[0] if damage else None

    def compare(self, stage: str, *, text: bool = True) -> tuple[Comparison, list[str]]:
        """Read the files of a published stage and compare them with the checksums of its manifest.

        Args:
            stage: name of the stage.
            text: whether text that was removed to save disk space counts as damage.

        Returns:
            The comparison, and one sentence for each missing or damaged file.
        """
        manifest = self.manifest(stage)
        assert manifest is not None, "a stage is compared once it is published"
        start = time.monotonic()
        if manifest.removed and text:
            damage = ["its text was removed to save disk space"]
        else:
            damage = find_damage(self.folder(stage), manifest.outputs, content=True)
        num_bytes = sum(entry["size"] for entry in manifest.outputs.values())
        return {
            "files": len(manifest.outputs),
            "bytes": num_bytes,
            "seconds": round(time.monotonic() - start, 3),
        }, damage

    def discard(self, stage: str) -> None:
        """Remove a published stage, so that it runs again."""
        retired = self.folder(stage).with_name(f"{stage}.retired")
        shutil.rmtree(retired, ignore_errors=True)
        self.folder(stage).rename(retired)
        shutil.rmtree(retired)

    def remove_table(self, stage: str, table: str) -> int:
        """Remove a table of a published stage that no stage needs any more; the stage stays fresh.

        If a stage needs it later, `compare` reports it as missing, so the stage runs again.

        Args:
            stage: name of the stage.
            table: folder of the table inside the stage's folder.

        Returns:
            Bytes that were freed.
        """
        manifest = self.manifest(stage)
        folder = self.folder(stage) / table
        if manifest is None or not folder.exists():
            return 0
        chosen = {name: entry for name, entry in manifest.outputs.items() if Path(name).parts[0] == table}
        rest = {name: entry for name, entry in manifest.outputs.items() if name not in chosen}
        if chosen:  # the manifest first, so that a kill never leaves a stage that looks complete
            write_manifest(self.folder(stage), replace(manifest, outputs=rest, removed=manifest.removed | chosen))
        shutil.rmtree(folder)
        return sum(entry["size"] for entry in chosen.values())

    def begin(self, derivation: Derivation, *, restart: bool = False, adopt: bool = False) -> Work:
        """Create or reuse the unpublished folder of a stage.

        The output of a killed stage is discarded, unless it is resumable and was started with the same fingerprint.

        Args:
            derivation: what the stage is made from.
            restart: discard the output of a killed precious stage, whatever its settings.
            adopt: resume it with the current settings.

        Raises:
            UserError: a precious stage (training) was started with other settings, and neither flag is given.
        """
        partial = self._partial(derivation.stage)
        self._refuse_foreign(derivation.stage)
        begun = _read_begun(partial / _BEGUN)
        if begun is not None and [path.name for path in partial.iterdir()] == [_BEGUN]:
            begun = None  # it was killed before it wrote anything
        same = begun is not None and begun["fingerprint"] == derivation.fingerprint
        if restart or (partial.exists() and not (derivation.resumable and (same or (derivation.precious and begun)))):
            shutil.rmtree(partial, ignore_errors=True)
        elif begun is not None and not same and not adopt:
            changes = "; ".join(differences(begun["settings"], derivation.settings)) or "its inputs changed"
            raise UserError(
                f"{derivation.stage} is unfinished with other settings ({changes})",
                where=str(partial),
                remedy="undo the change, or add --restart to discard its progress, "
                "or --adopt to resume from its checkpoint with the new settings",
            )
        partial.mkdir(parents=True, exist_ok=True)
        for leftover in partial.rglob(".*.tmp"):  # left by a killed write
            leftover.unlink()
        write_json(partial / _BEGUN, Begun(fingerprint=derivation.fingerprint, settings=derivation.settings))
        work = self.join(derivation)
        work.adopt = adopt
        return work

    def _refuse_foreign(self, stage: str) -> None:
        """Raise UserError if a folder of the user has the name of a stage, as publishing would replace it."""
        folder = self.folder(stage)
        if folder.exists() and not (folder / MANIFEST).exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f"this is no stage of a run (it has no {MANIFEST}), and the stage {stage} would take its place",
                where=str(folder),
                remedy="name a folder of its own for the run (workspace=...), or move this away",
            )

    def is_begun(self, stage: str) -> bool:
        """Whether a stage has an unpublished folder."""
        return self._partial(stage).exists()

    def reopen(self, manifest: Manifest, lay_out: Callable[[Path, Path], None]) -> None:
        """Make an unpublished folder from a finished stage, as if it had been stopped at its end.

        The finished version stays published until the stage is finished again.

        Args:
            manifest: manifest of the finished stage.
            lay_out: fills the unpublished folder (second argument) from the published one (first).
        """
        staged = self.root / f".{manifest.stage}.reopened"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        lay_out(self.folder(manifest.stage), staged)
        write_json(staged / _BEGUN, Begun(fingerprint=manifest.fingerprint, settings=manifest.settings))
        staged.rename(self._partial(manifest.stage))
        sync(self.root)

    def join(self, derivation: Derivation) -> Work:
        """The `Work` of a further process, for a stage that the first process has begun."""
        return Work(
            output=self._partial(derivation.stage),
            inputs={name: self.folder(name) for name in derivation.inputs},
            cache=self.root / "cache" / derivation.stage,
        )

    def publish(self, derivation: Derivation, work: Work, seconds: float) -> None:
        """Write the manifest of a finished stage, and rename its folder to its final name."""
        start = time.monotonic()
        outputs = {
            str(path.relative_to(work.output)): file_checksum(path)
            for path in sorted(work.output.rglob("*"))
            if path.is_file() and path.name != _BEGUN
        }
        content = {name: entry["xxh128"] for name, entry in outputs.items() if not _is_record(name, derivation.records)}
        outputs |= {os.path.relpath(path, work.output): file_checksum(path) for path in work.outside}
        manifest = Manifest(
            stage=derivation.stage,
            fingerprint=derivation.fingerprint,
            content=digest(content),
            settings=derivation.settings,
            inputs=derivation.inputs,
            files=derivation.files,
            outputs=outputs,
            counts=json.loads(json.dumps(work.counts)),
            seconds=round(seconds, 3),
            hashing_seconds=round(time.monotonic() - start, 3),
            compared=work.compared,
            version=__version__,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            precious=derivation.precious,
        )
        for name in outputs:
            sync(work.output / name)
        write_manifest(work.output, manifest)
        (work.output / _BEGUN).unlink()
        self._replace(work.output, self.folder(derivation.stage))

    def restore(self, derivation: Derivation) -> bool:
        """Publish a kept stage that was made from the same settings, inputs and files; False if there is none."""
        kept = self._kept(derivation.stage, derivation.fingerprint)
        if not kept.exists():
            return False
        self._replace(kept, self.folder(derivation.stage))
        return True

    def borrow(self, derivation: Derivation, others: Sequence[Path]) -> Path | None:
        """Link a stage that another workspace has published from the same settings, inputs and files.

        Args:
            derivation: what the stage is made from.
            others: workspaces to look in.

        Returns:
            The workspace that the stage is linked from; None if no workspace has it.
        """
        for root in others:
            other = Workspace(root)
            manifest = other.manifest(derivation.stage)
            if manifest is None or manifest.fingerprint != derivation.fingerprint or other.damage(manifest):
                continue
            copy = self.root / f".{derivation.stage}.borrowed"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(other.folder(derivation.stage), copy, copy_function=link_file)
            self.publish_copy(copy, derivation.stage)
            return root
        return None

    def publish_copy(self, copy: Path, stage: str) -> None:
        """Publish a complete copy of a stage, replacing the current one."""
        self._replace(copy, self.folder(stage))

    def status(self, derivation: Derivation) -> Status:
        """Whether a stage must run, judging by its manifest and the sizes of its files."""
        manifest = self.manifest(derivation.stage)
        if manifest is None:
            partial = self._partial(derivation.stage).exists()
            return Status("missing", "was begun and not finished" if partial else "has not run")
        if manifest.fingerprint != derivation.fingerprint:
            return Status("stale", "; ".join(stale_reasons(manifest, derivation)) or "made by another version")
        damage = self.damage(manifest)
        return Status("stale", damage) if damage else Status("fresh", "")

    def _partial(self, stage: str) -> Path:
        return self.root / f"{stage}.partial"

    def _kept(self, stage: str, fingerprint: str) -> Path:
        return self.root / f"{stage}.kept-{fingerprint[:12]}"

    def _replace(self, new: Path, old: Path) -> None:
        """Rename `new` to `old`. A kill in between leaves no `old`, never a mixture of the two."""
        if old.exists():
            self._refuse_foreign(old.name)
            retired = self._retirement(old)
            shutil.rmtree(retired, ignore_errors=True)
            old.rename(retired)
            new.rename(old)
            if retired.suffix == ".retired":
                shutil.rmtree(retired)
        else:
            new.rename(old)
        sync(old.parent)

    def _retirement(self, folder: Path) -> Path:
        """Path to move a replaced stage to; a precious and undamaged one is kept there."""
        manifest = self.manifest(folder.name)
        if manifest is None or not manifest.precious or self.damage(manifest):
            return folder.with_name(f"{folder.name}.retired")
        return self._kept(folder.name, manifest.fingerprint)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context that locks the workspace, as two runs in one folder would overwrite each other's files.

        Raises:
            UserError: another process holds the lock, or the folder is not writable.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("a+")
        except OSError as error:
            raise UserError(
                f"the workspace cannot be written: {error.strerror or error}",
                where=str(self.root),
                remedy="name another folder (workspace=...), or fix its permissions",
            ) from None
        with lock as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    "another reprise runs in this workspace",
                    where=str(self.root),
                    remedy="wait for it or stop it",
                ) from None
            yield


def refuse_to_replace(folder: Path, names: Sequence[str], what: str) -> None:
    """Raise UserError if a folder contains files that a command would overwrite but has not written.

    Args:
        folder: folder to check; it may not exist.
        names: names of the files to write.
        what: what writes them, such as "a run".
    """
    for path in (folder / name for name in names):
        if path.exists() or path.is_symlink():
            raise UserError(
                f"this was not written by {what}, and {what} writes under this name",
                where=str(path),
                remedy=f"name a folder of its own for {what} (workspace=...), or move this away",
            )


def _is_record(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _read_begun(path: Path) -> Begun | None:
    """Read the record of a begun stage; None if it is missing or truncated."""
    try:
        begun: Begun = json.loads(path.read_text(encoding="utf-8"))
        return begun
    except (FileNotFoundError, ValueError, RecursionError):
        return None
