"""Where a stage's output lives: atomic publication, manifest, fingerprint.

    WORKSPACE/
      recipe.yaml            the resolved recipe of the last run
      STAGE/                 a published stage; present means complete
        manifest.json        written last, before the folder is published
      STAGE/documents/       of a document stage: gone once it was read, where documents.keep_text is false
      STAGE.kept-HASH/       a precious stage (training) made under other settings; restored when they return
      STAGE.partial/         an unfinished stage, running or killed; never read by another stage
        begun.json           the fingerprint and settings it was begun under
      cache/STAGE/           cached answers and results, keyed by content; survives changes of the settings

A stage depends on the settings, stages and files that it declares and gets nothing else, so its fingerprint is exact.
It depends on the content of these stages and files, not on where they are: a stage that is made again with the same
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
from typing import Literal

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
from reprise.processes import Processes
from reprise.recipe.loading import KEPT, KEPT_MARK
from reprise.storage import Json, digest, file_checksum, find_damage, sync, write_json, write_text

_BEGUN = "begun.json"
_OUTSIDE = ("report.html", "report.json", "verified.json")
"""Files that a run writes into the workspace beside its recipe."""


@dataclass
class Work:
    """What a stage gets while it runs."""

    output: Path
    """Unpublished folder to write into."""
    inputs: Mapping[str, Path]
    """Folders of the stages that it needs."""
    cache: Path
    """Folder that outlives changes of the settings, for cached answers keyed by content; made when used."""
    counts: dict[str, Json] = field(default_factory=dict)
    """Numbers for the manifest and the report."""
    outside: list[Path] = field(default_factory=list)
    """Files of the stage that lie outside its folder, such as the report; missed when they are gone."""
    adopt: bool = False
    """The user wants to resume from what is in the folder, whatever settings it was begun under."""
    compared: dict[str, Comparison] = field(default_factory=dict)
    """Stage that it reads -> how its files were compared with their checksums."""
    processes: Processes = field(default_factory=Processes)
    """Those of the command: some stages run in each, the others in the first, which may spread pieces of its work."""


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
        """Give their names to stages that were killed between their manifest and the rename; remove cut files."""
        for partial in self.root.glob("*.partial"):
            if (partial / MANIFEST).exists():
                (partial / _BEGUN).unlink(missing_ok=True)
                self._replace(partial, partial.with_suffix(""))
        for retired in self.root.glob("*.retired"):
            shutil.rmtree(retired)
        for leftover in [*self.root.glob(".*.tmp"), *(self.root / "cache").rglob(".*.tmp")]:
            if not _is_written(leftover):
                leftover.unlink(missing_ok=True)

    def keep_recipe(self, text: str) -> None:
        """Keep the resolved recipe, so that the folder alone says what the run is.

        Args:
            text: see `recipe.loading.format_kept`.

        Raises:
            UserError: the user has a file of this name there, such as the recipe itself where the workspace is `.`,
                or the folder is no run yet and contains what a run would write over.
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
        """Manifest of a published stage, None if there is none.

        Raises:
            UserError: the manifest is there but cannot be read.
        """
        path = self.folder(stage) / MANIFEST
        try:
            return read_manifest(path)
        except FileNotFoundError:
            return None

    def damage(self, manifest: Manifest) -> str | None:
        """The first output file that is missing or has another size than the manifest says, None if all is well."""
        damage = find_damage(self.folder(manifest.stage), manifest.outputs, content=False)
        return damage[0] if damage else None

    def compare(self, stage: str) -> tuple[Comparison, list[str]]:
        """Read the files of a published stage and compare them with the checksums of its manifest.

        Returns:
            What was read, and the files that are missing or damaged, a sentence each.
        """
        manifest = self.manifest(stage)
        assert manifest is not None, "a stage is compared once it is published"
        start = time.monotonic()
        if manifest.removed:
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
        """Remove a published stage, so that it is made again."""
        retired = self.folder(stage).with_name(f"{stage}.retired")
        shutil.rmtree(retired, ignore_errors=True)
        self.folder(stage).rename(retired)
        shutil.rmtree(retired)

    def remove_table(self, stage: str, table: str) -> int:
        """Remove a table of a published stage that no other stage has to read; the stage stays fresh.

        A stage that must read it later makes the stage again: `compare` says that it is not whole.

        Args:
            stage: its name.
            table: folder of the table in that of the stage.

        Returns:
            Bytes that this freed.
        """
        manifest = self.manifest(stage)
        folder = self.folder(stage) / table
        if manifest is None or not folder.exists():
            return 0
        chosen = {name: entry for name, entry in manifest.outputs.items() if Path(name).parts[0] == table}
        rest = {name: entry for name, entry in manifest.outputs.items() if name not in chosen}
        if chosen:  # the manifest first: what a kill leaves is then never read as whole
            write_manifest(self.folder(stage), replace(manifest, outputs=rest, removed=manifest.removed | chosen))
        shutil.rmtree(folder)
        return sum(entry["size"] for entry in chosen.values())

    def begin(self, derivation: Derivation, *, restart: bool = False, adopt: bool = False) -> Work:
        """Make or take over the unpublished folder of a stage.

        What a killed stage left is discarded, unless the stage is resumable and was begun under the same fingerprint.

        Args:
            derivation: what the stage is made from.
            restart: discard what a precious stage left, whatever its settings were.
            adopt: resume from it with the settings of today.

        Raises:
            UserError: a precious stage (training) was begun under other settings, and neither flag is given.
        """
        partial = self._partial(derivation.stage)
        self._refuse_foreign(derivation.stage)
        begun = _read_json(partial / _BEGUN)
        if begun is not None and [path.name for path in partial.iterdir()] == [_BEGUN]:
            begun = None  # it failed before it wrote anything
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
        for leftover in partial.rglob(".*.tmp"):  # of a write that was killed
            leftover.unlink()
        write_json(partial / _BEGUN, {"fingerprint": derivation.fingerprint, "settings": derivation.settings})
        work = self.join(derivation)
        work.adopt = begun is not None and adopt
        return work

    def _refuse_foreign(self, stage: str) -> None:
        """Raise UserError where a folder of the user's has the name of a stage: publishing it would remove that."""
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
        """Make an unpublished folder out of a finished stage, as if it had been stopped at its end.

        The finished one stays published until the stage is finished again.

        Args:
            manifest: manifest of the finished stage.
            lay_out: fills the second folder from the first.
        """
        staged = self.root / f".{manifest.stage}.reopened"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        lay_out(self.folder(manifest.stage), staged)
        write_json(staged / _BEGUN, {"fingerprint": manifest.fingerprint, "settings": manifest.settings})
        staged.rename(self._partial(manifest.stage))
        sync(self.root)

    def join(self, derivation: Derivation) -> Work:
        """What a further process of a stage gets, after the first one began it."""
        return Work(
            output=self._partial(derivation.stage),
            inputs={name: self.folder(name) for name in derivation.inputs},
            cache=self.root / "cache" / derivation.stage,
        )

    def publish(self, derivation: Derivation, work: Work, seconds: float) -> None:
        """Write the manifest of a finished stage, and give its folder its name."""
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
        """Put back a precious stage that was made from the same settings, inputs and files; False: none was kept."""
        kept = self._kept(derivation.stage, derivation.fingerprint)
        if not kept.exists():
            return False
        self._replace(kept, self.folder(derivation.stage))
        return True

    def borrow(self, derivation: Derivation, others: Sequence[Path]) -> Path | None:
        """Link a stage that another workspace published from the same settings, inputs and files; None: there is none.

        Args:
            derivation: what the stage is made from.
            others: workspaces to look in.

        Returns:
            The workspace it came from.
        """
        for root in others:
            other = Workspace(root)
            manifest = other.manifest(derivation.stage)
            if manifest is None or manifest.fingerprint != derivation.fingerprint or other.damage(manifest):
                continue
            copy = self.root / f".{derivation.stage}.borrowed"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(other.folder(derivation.stage), copy, copy_function=_link)
            self._replace(copy, self.folder(derivation.stage))
            return root
        return None

    def status(self, derivation: Derivation) -> Status:
        """Whether a stage must run, and why, judged by its manifest and the sizes of its files."""
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
        """Give `new` the name of `old`. A kill in between leaves no `old`, never a mixture of the two."""
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
        """Where a published stage goes when it is replaced: a precious and whole one is kept permanently."""
        manifest = self.manifest(folder.name)
        if manifest is None or not manifest.precious or self.damage(manifest):
            return folder.with_name(f"{folder.name}.retired")
        return self._kept(folder.name, manifest.fingerprint)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace: two runs in one folder would overwrite each other.

        Raises:
            UserError: another process holds it, or it cannot be written.
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
    """Raise UserError where a folder that we have not written to yet contains a file that we would write over.

    Args:
        folder: it may not exist.
        names: what will be written there.
        what: who writes, such as "a run".
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


def _read_json(path: Path) -> Json:
    """Content of a JSON file, None if it is missing or cut."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def _is_written(temporary: Path) -> bool:
    """Whether the process that writes a temporary file (`storage.write_text` puts its id into the name) still runs."""
    process = temporary.name.split(".")[-2]
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # of another user
        return True
    return int(process) != os.getpid()


def _link(source: str, target: str) -> str:
    """A second name for a file of a published stage, which never changes; a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
