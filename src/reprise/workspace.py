"""Where a stage's output lives: atomic publication, manifest, fingerprint.

    WORKSPACE/
      recipe.yaml            the resolved recipe of the last run
      STAGE/                 a published stage; present means complete
        manifest.json        written last, before the folder gets its name
      STAGE.kept-HASH/       a precious stage (training) made under other settings; back in its place when they return
      STAGE.partial/         a stage at work, or killed; never read by another stage
        begun.json           the fingerprint and settings it was begun under
      cache/STAGE/           answers that were paid for, keyed by content; outlives changes of the settings

A stage depends on the settings, stages and files that it declares and gets nothing else, so its fingerprint is exact.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import xxhash

from reprise import __version__
from reprise.errors import UserError

Json = Any
"""What `json` reads and writes."""

MANIFEST = "manifest.json"
_BEGUN = "begun.json"


@dataclass(frozen=True)
class Manifest:
    """What a published stage says of itself."""

    stage: str
    fingerprint: str
    """Hash of the settings, the fingerprints of the stages and the content of the files it depends on."""
    settings: Json
    inputs: dict[str, str]
    """Stage -> its fingerprint."""
    files: dict[str, dict[str, Json]]
    """User's file -> {size, mtime_ns, xxh128}."""
    outputs: dict[str, int]
    """File of the stage, relative to its folder -> its size in bytes."""
    counts: dict[str, Json]
    seconds: float
    version: str
    finished: str
    precious: bool = False


@dataclass
class Work:
    """What a stage gets while it runs."""

    output: Path
    """Unpublished folder to write into."""
    inputs: Mapping[str, Path]
    """Folders of the stages that it needs."""
    cache: Path
    """Folder that outlives changes of the settings, for answers keyed by content that were paid for; made when used."""
    counts: dict[str, Json] = field(default_factory=dict)
    """Numbers for the manifest and the report."""
    outside: list[Path] = field(default_factory=list)
    """Files of the stage that lie outside its folder, such as the report; missed when they are gone."""
    adopt: bool = False
    """The user wants to go on from what is in the folder, whatever settings it was begun under."""


@dataclass(frozen=True)
class Status:
    """Whether a stage must run, and why."""

    state: Literal["fresh", "stale", "missing"]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a stage is about to be made from."""

    stage: str
    settings: Json
    inputs: dict[str, str]
    """Stage -> its fingerprint."""
    files: dict[str, dict[str, Json]]
    """User's file -> {size, mtime_ns, xxh128}."""
    resumable: bool = False
    """What a killed run left is gone on from."""
    precious: bool = False
    """Took so long that nothing of it is thrown away when a setting changes, unless the user says so."""

    @property
    def fingerprint(self) -> str:
        """Hash of the settings, the fingerprints of the stages and the content of the files it depends on."""
        contents = {name: entry["xxh128"] for name, entry in self.files.items()}
        return digest({"stage": self.stage, "settings": self.settings, "inputs": self.inputs, "files": contents})


class Workspace:
    """The folder of a run."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder(self, stage: str) -> Path:
        """Folder of a published stage."""
        return self.root / stage

    def adopt_finished(self) -> None:
        """Give their names to stages that were killed between their manifest and the rename."""
        for partial in self.root.glob("*.partial"):
            if (partial / MANIFEST).exists():
                (partial / _BEGUN).unlink(missing_ok=True)
                self._replace(partial, partial.with_suffix(""))
        for retired in self.root.glob("*.retired"):
            shutil.rmtree(retired)

    def keep_recipe(self, text: str) -> None:
        """Keep the resolved recipe, so that the folder alone says what the run is."""
        path = self.root / "recipe.yaml"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

    def manifest(self, stage: str) -> Manifest | None:
        """Manifest of a published stage, None where there is none.

        Raises:
            UserError: the manifest is there but cannot be read.
        """
        path = self.folder(stage) / MANIFEST
        try:
            return Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"the manifest is damaged ({error})", where=str(path), remedy=f"delete {path.parent} and run again"
            ) from None

    def damage(self, manifest: Manifest) -> str | None:
        """The first output file that is missing or has another size than the manifest says, None where all is well."""
        folder = self.folder(manifest.stage)
        for name, size in manifest.outputs.items():
            try:
                actual = (folder / name).stat().st_size
            except FileNotFoundError:
                return f"{folder / name} is missing"
            if actual != size:
                return f"{folder / name} has {actual} bytes, not {size}"
        return None

    def begin(self, plan: Plan, *, restart: bool = False, adopt: bool = False) -> Work:
        """Make or take over the unpublished folder of a stage.

        What a killed stage left is thrown away, unless the stage is resumable and was begun under the same fingerprint.

        Args:
            plan: the stage.
            restart: throw away what a precious stage left, whatever its settings were.
            adopt: go on from it with the settings of today.

        Raises:
            UserError: a precious stage (training) was begun under other settings, and neither flag is given.
        """
        partial = self._partial(plan.stage)
        begun = _read_json(partial / _BEGUN)
        if begun is not None and [path.name for path in partial.iterdir()] == [_BEGUN]:
            begun = None  # it failed before it wrote anything
        same = begun is not None and begun["fingerprint"] == plan.fingerprint
        if restart or (partial.exists() and not (plan.resumable and (same or (plan.precious and begun)))):
            shutil.rmtree(partial, ignore_errors=True)
        elif begun is not None and not same and not adopt:
            changes = "; ".join(differences(begun["settings"], plan.settings)) or "its inputs changed"
            raise UserError(
                f"{plan.stage} is half-way under other settings ({changes})",
                where=str(partial),
                remedy="undo the change, or add --restart to throw its progress away, "
                "or --adopt to go on from its checkpoint with the new settings",
            )
        partial.mkdir(parents=True, exist_ok=True)
        write_json(partial / _BEGUN, {"fingerprint": plan.fingerprint, "settings": plan.settings})
        work = self.join(plan)
        work.adopt = begun is not None and adopt
        return work

    def is_begun(self, stage: str) -> bool:
        """Whether a stage has an unpublished folder."""
        return self._partial(stage).exists()

    def reopen(self, manifest: Manifest, lay_out: Callable[[Path, Path], None]) -> None:
        """Make an unpublished folder out of a finished stage, as if it had been stopped at its end.

        The finished one stays published until the stage is finished again.

        Args:
            manifest: of the finished stage.
            lay_out: fills the second folder from the first.
        """
        staged = self.root / f".{manifest.stage}.reopened"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        lay_out(self.folder(manifest.stage), staged)
        write_json(staged / _BEGUN, {"fingerprint": manifest.fingerprint, "settings": manifest.settings})
        staged.rename(self._partial(manifest.stage))
        sync(self.root)

    def join(self, plan: Plan) -> Work:
        """What a further process of a stage gets, after the first one began it."""
        return Work(
            output=self._partial(plan.stage),
            inputs={name: self.folder(name) for name in plan.inputs},
            cache=self.root / "cache" / plan.stage,
        )

    def publish(self, plan: Plan, work: Work, seconds: float) -> None:
        """Write the manifest of a finished stage, and give its folder its name."""
        outputs = {
            str(path.relative_to(work.output)): path.stat().st_size
            for path in sorted(work.output.rglob("*"))
            if path.is_file() and path.name != _BEGUN
        }
        outputs |= {os.path.relpath(path, work.output): path.stat().st_size for path in work.outside}
        manifest = Manifest(
            stage=plan.stage,
            fingerprint=plan.fingerprint,
            settings=plan.settings,
            inputs=plan.inputs,
            files=plan.files,
            outputs=outputs,
            counts=work.counts,
            seconds=round(seconds, 3),
            version=__version__,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            precious=plan.precious,
        )
        for name in outputs:
            sync(work.output / name)
        write_json(work.output / MANIFEST, vars(manifest))
        (work.output / _BEGUN).unlink()
        self._replace(work.output, self.folder(plan.stage))

    def restore(self, plan: Plan) -> bool:
        """Put back a precious stage that was made from the same settings, inputs and files; False: none was kept."""
        kept = self._kept(plan.stage, plan.fingerprint)
        if not kept.exists():
            return False
        self._replace(kept, self.folder(plan.stage))
        return True

    def borrow(self, plan: Plan, others: Sequence[Path]) -> Path | None:
        """Link a stage that another workspace published from the same settings, inputs and files; None: there is none.

        Args:
            plan: the stage.
            others: workspaces to look in.

        Returns:
            The workspace it came from.
        """
        for root in others:
            other = Workspace(root)
            manifest = other.manifest(plan.stage)
            if manifest is None or manifest.fingerprint != plan.fingerprint or other.damage(manifest):
                continue
            copy = self.root / f".{plan.stage}.borrowed"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(other.folder(plan.stage), copy, copy_function=_link)
            self._replace(copy, self.folder(plan.stage))
            return root
        return None

    def status(self, plan: Plan) -> Status:
        """Whether a stage must run, and why, judged by its manifest and the sizes of its files."""
        manifest = self.manifest(plan.stage)
        if manifest is None:
            partial = self._partial(plan.stage).exists()
            return Status("missing", "was begun and not finished" if partial else "has not run")
        if manifest.fingerprint != plan.fingerprint:
            return Status("stale", "; ".join(_reasons(manifest, plan)) or "made by another version")
        damage = self.damage(manifest)
        return Status("stale", damage) if damage else Status("fresh", "")

    def _partial(self, stage: str) -> Path:
        return self.root / f"{stage}.partial"

    def _kept(self, stage: str, fingerprint: str) -> Path:
        return self.root / f"{stage}.kept-{fingerprint[:12]}"

    def _replace(self, new: Path, old: Path) -> None:
        """Give `new` the name of `old`. A kill in between leaves no `old`, never a mixture of the two."""
        if old.exists():
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
        """Where a published stage goes when another takes its place: a precious and whole one is kept for good."""
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
                remedy="name another folder (workspace=...), or mend the rights",
            ) from None
        with lock as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    "another reprise is at work in this workspace",
                    where=str(self.root),
                    remedy="wait for it or stop it",
                ) from None
            yield


def digest(value: Json) -> str:
    """Hash of a JSON value; equal values give equal hashes, whatever the order of their keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def digest_file(path: Path, known: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """Size, time of change and content hash of a file; the hash in `known` is taken over if size and time match."""
    stat = path.stat()
    if known and known["size"] == stat.st_size and known["mtime_ns"] == stat.st_mtime_ns:
        return dict(known)
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "xxh128": file_checksum(path)["xxh128"]}


class FileChecksum(TypedDict):
    """What a file must hold."""

    size: int
    """Bytes."""
    xxh128: str
    """XXH3 128-bit hash of the content, in hexadecimal."""


def file_checksum(path: Path) -> FileChecksum:
    """Size and hash of a file's content; reads all of it."""
    hasher = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            hasher.update(block)
            size += len(block)
    return {"size": size, "xxh128": hasher.hexdigest()}


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file so that a reader sees the old or the new one, never half of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        json.dump(value, handle, ensure_ascii=False, indent=1)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def differences(old: Json, new: Json, prefix: str = "") -> list[str]:
    """`name: old -> new` for each setting that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{prefix}.{key}" if prefix else str(key)
            found += differences(old.get(key), new.get(key), name)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for number, (a, b) in pairs for line in differences(a, b, f"{prefix}.{number}")]
    return [] if old == new else [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: Json, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def _reasons(manifest: Manifest, plan: Plan) -> list[str]:
    """Why a stage is stale: what differs between its manifest and the plan."""
    reasons = differences(manifest.settings, plan.settings)
    reasons += [f"{name} changed" for name, print_ in plan.inputs.items() if manifest.inputs.get(name) != print_]
    for name in sorted(manifest.files.keys() | plan.files.keys()):
        old, new = manifest.files.get(name), plan.files.get(name)
        if old is None or new is None:
            reasons.append(f"{name} is {'new' if old is None else 'gone'}")
        elif old["xxh128"] != new["xxh128"]:
            reasons.append(f"{name} changed")
    return reasons


def _read_json(path: Path) -> Json:
    """Content of a JSON file, None where it is missing or cut."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _link(source: str, target: str) -> str:
    """A second name for a file of a published stage, which never changes; a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def sync(path: Path) -> None:
    """Return when what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
