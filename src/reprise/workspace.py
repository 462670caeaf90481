"""Where a stage's output lives: atomic publication, manifest, fingerprint.

    WORKSPACE/
      recipe.yaml            the resolved recipe of the last run
      STAGE/                 a published stage; present means complete
        manifest.json        written last, before the folder gets its name
      STAGE.partial/         a stage at work, or killed; never read by another stage
        begun.json           the fingerprint it was begun under

A stage depends on the settings, stages and files that it declares and gets nothing else, so its fingerprint is exact.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from reprise import __version__
from reprise.errors import UserError

Json = Any
"""What `json` reads and writes."""

MANIFEST = "manifest.json"


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
    """File of the stage -> its size in bytes."""
    counts: dict[str, Json]
    seconds: float
    version: str
    finished: str


@dataclass
class Work:
    """What a stage gets while it runs."""

    output: Path
    """Unpublished folder to write into."""
    inputs: Mapping[str, Path]
    """Folders of the stages that it needs."""
    counts: dict[str, Json] = field(default_factory=dict)
    """Numbers for the manifest and the report."""


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

    @contextlib.contextmanager
    def publish(
        self,
        stage: str,
        fingerprint: str,
        settings: Json,
        inputs: dict[str, str],
        files: dict[str, dict[str, Json]],
        *,
        resumable: bool,
    ) -> Iterator[Work]:
        """Run a stage: the block writes into `work.output`, which gets its name only when the block ends well.

        What a killed stage left is thrown away, unless the stage is resumable and was begun under the same fingerprint.
        """
        partial = self.root / f"{stage}.partial"
        begun = partial / "begun.json"
        if partial.exists() and not (resumable and _read_fingerprint(begun) == fingerprint):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_json(begun, {"fingerprint": fingerprint})
        work = Work(output=partial, inputs={name: self.folder(name) for name in inputs})
        start = time.monotonic()
        yield work
        outputs = {
            str(path.relative_to(partial)): path.stat().st_size
            for path in sorted(partial.rglob("*"))
            if path.is_file() and path != begun
        }
        manifest = Manifest(
            stage=stage, fingerprint=fingerprint, settings=settings, inputs=inputs, files=files, outputs=outputs,
            counts=work.counts, seconds=round(time.monotonic() - start, 3), version=__version__,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )  # fmt: skip
        begun.unlink()
        for name in outputs:
            _sync(partial / name)
        write_json(partial / MANIFEST, vars(manifest))
        self._replace(partial, self.folder(stage))

    def _replace(self, new: Path, old: Path) -> None:
        """Give `new` the name of `old`. A kill in between leaves no `old`, never a mixture of the two."""
        if old.exists():
            retired = old.with_name(f"{old.name}.retired")
            shutil.rmtree(retired, ignore_errors=True)
            old.rename(retired)
            new.rename(old)
            shutil.rmtree(retired)
        else:
            new.rename(old)
        _sync(old.parent)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace: two runs in one folder would overwrite each other.

        Raises:
            UserError: another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as handle:
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
    hasher = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            hasher.update(block)
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "xxh128": hasher.hexdigest()}


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file so that a reader sees the old or the new one, never half of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        json.dump(value, handle, ensure_ascii=False, indent=1)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _read_fingerprint(begun: Path) -> str | None:
    try:
        return str(json.loads(begun.read_text(encoding="utf-8"))["fingerprint"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
