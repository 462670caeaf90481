"""A copy of a run in an object store, from which an empty disk resumes: finished stages and checkpoints.

    MIRROR/STAGE/...                                     manifest.json last
    MIRROR/train-N.partial/checkpoints/step-XXXXXXXX/... checkpoint.json last
    MIRROR/train-N.partial/metrics.jsonl                 as it was at the newest checkpoint

Every folder has a record: a file with the size and checksum of all others. It is uploaded last and deleted first, so
a folder with a record is complete, whenever the run is killed. A thread uploads; a store that fails delays nothing.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reprise.errors import UserError
from reprise.object_store import DamagedError, LeftError, NoObjectError, ObjectStore, StoreError, first_line
from reprise.storage import FileChecksum, sync

log = logging.getLogger(__name__)

CHECKPOINT_RECORD = "checkpoint.json"
"""Record of a checkpoint."""
FILES_AT_ONCE = 4
STALL_S = 300.0
"""A wait for uploads ends if no byte was sent for so long."""
DROP_S = 30.0
"""Longest wait for an upload that is given up; it ends at its next block."""
SAY_EVERY_S = 30.0
_PROBE = ".reprise-write-test"


@dataclass(frozen=True)
class Folder:
    """A complete folder of the run."""

    path: Path
    name: str
    """Its name in the mirror."""
    record: str
    """Name of its file that lists the others: it is uploaded last."""
    files: Mapping[str, FileChecksum]
    """The others, relative to it."""


@dataclass(frozen=True)
class Upload:
    """What became of an upload."""

    name: str
    """Name of the folder in the mirror."""
    num_bytes: int
    """Bytes sent; 0 if the mirror had it already."""
    seconds: float
    failures: int
    """Attempts that failed."""
    error: str | None
    """Why it is not in the mirror; None if it is."""


@dataclass(frozen=True)
class _Task:
    folder: Folder
    is_checkpoint: bool
    before: Callable[[ObjectStore], None]
    """Called before the record is uploaded."""
    after: Callable[[ObjectStore], None]
    """Called once the folder is in the mirror."""
    told: Callable[[Upload], None]


class Mirror:
    """Uploads folders in a thread, one after the other, and downloads them. Only the first process has one."""

    def __init__(self, url: str) -> None:
        self.store = ObjectStore(url)
        self._changed = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._newest: _Task | None = None
        """The checkpoint that waits; a newer one replaces it."""
        self._current: _Task | None = None
        self._failed: dict[str, _Task] = {}
        self._errors: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._stage_is_next = False

    def add(self, folder: Folder, *, after: Callable[[ObjectStore], None] = lambda store: None) -> None:
        """Upload a folder in the background; nothing is sent if the mirror has it already."""
        self._put(_Task(folder, False, lambda store: None, after, lambda upload: None))

    def add_checkpoint(
        self,
        folder: Folder,
        *,
        before: Callable[[ObjectStore], None],
        after: Callable[[ObjectStore], None],
        told: Callable[[Upload], None],
    ) -> None:
        """Upload a checkpoint in the background, instead of an older one that still waits.

        Args:
            folder: the checkpoint; it must stay while `holds` contains it.
            before: called in the thread before its record is uploaded.
            after: called in the thread once it is in the mirror.
            told: called in the thread with the outcome.
        """
        self._put(_Task(folder, True, before, after, told))

    def _put(self, task: _Task) -> None:
        with self._changed:
            self._failed.pop(task.folder.name, None)
            if task.is_checkpoint:
                self._newest = task
                for name in [name for name, failed in self._failed.items() if failed.is_checkpoint]:
                    del self._failed[name]
            else:
                self._queue.append(task)
            if self._thread is None:
                # Not one of the threads that the interpreter waits for: a store that hangs must not keep it.
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def holds(self) -> set[Path]:
        """Checkpoints that are being uploaded or wait for it."""
        with self._changed:
            return {
                task.folder.path for task in (self._newest, self._current) if task is not None and task.is_checkpoint
            }

    def drop_checkpoints(self) -> None:
        """Give up the uploads of checkpoints: their files are about to be deleted."""
        with self._changed:
            self._newest = None
            self._failed = {name: task for name, task in self._failed.items() if not task.is_checkpoint}
            current = self._current
            if current is not None and current.is_checkpoint:
                self.store.leave = True
                self._changed.wait_for(lambda: self._current is not current, DROP_S)

    def wait(self, limit_s: float | None = None, *, say: Callable[[str], None] | None = None) -> dict[str, str]:
        """Wait until everything is uploaded; what failed before is tried again once.

        Args:
            limit_s: longest wait in seconds; None: as long as bytes are sent, see `STALL_S`.
            say: called now and then with a line about what is waited for.

        Returns:
            Folder that is not in the mirror -> why.
        """
        begun = said = time.monotonic()
        self.store.moved_at = max(self.store.moved_at, begun)
        with self._changed:
            self._again()
            while self._left():
                now = time.monotonic()
                if now - self.store.moved_at > STALL_S or (limit_s is not None and now - begun >= limit_s):
                    why = f"it was not finished within {now - begun:,.0f} s"
                    return {**self._errors, **dict.fromkeys(self._left(), why)}
                if say is not None and now - said >= SAY_EVERY_S:
                    said = now
                    say(f"mirror: {', '.join(self._left())} on the way to {self.store.url}")
                self._changed.wait(1.0 if limit_s is None else min(1.0, max(0.01, begun + limit_s - now)))
            return dict(self._errors)

    def stop(self, limit_s: float = 5.0) -> None:
        """Give up all uploads. What is complete in the mirror stays so."""
        with self._changed:
            self._queue.clear()
            self._newest, self._failed = None, {}
            self.store.leave = self._current is not None
            self._changed.wait_for(lambda: self._current is None, limit_s)

    def _left(self) -> list[str]:
        tasks = [*([self._current] if self._current else []), *self._queue, *([self._newest] if self._newest else [])]
        return [task.folder.name for task in tasks]

    def _again(self) -> None:
        for task in self._failed.values():
            if not task.is_checkpoint:
                self._queue.append(task)
            elif self._newest is None:
                self._newest = task
        self._failed.clear()
        self._changed.notify_all()

    def _next(self) -> _Task | None:
        """The next folder: checkpoints and stages take turns, so that neither waits for long."""
        if self._newest is not None and not (self._queue and self._stage_is_next):
            task, self._newest, self._stage_is_next = self._newest, None, True
            return task
        self._stage_is_next = False
        return self._queue.popleft() if self._queue else None

    def _work(self) -> None:
        while True:
            with self._changed:
                while (task := self._next()) is None:
                    self._changed.wait()
                self._current = task
                self.store.leave = False
            upload = self._attempt(task)
            with self._changed:
                if upload is not None and upload.error is not None:
                    self._failed[task.folder.name] = task
                    self._errors[task.folder.name] = upload.error
                elif upload is not None:
                    self._errors.pop(task.folder.name, None)
                    self._again()  # the store works
                self._current = None
                self._changed.notify_all()

    def _attempt(self, task: _Task) -> Upload | None:
        """Upload a folder; None if it was given up or is no longer there."""
        start, before = time.monotonic(), self.store.failures
        name, error, sent = task.folder.name, None, 0
        try:
            sent = self._upload(task.folder, task.before)
            task.after(self.store)
        except LeftError:
            return None
        except FileNotFoundError:
            log.info("%s was replaced before it was uploaded", name)
            return None
        except (StoreError, DamagedError, OSError) as failure:
            error = first_line(failure)
            log.warning("%s is not in the mirror: %s", name, error)
        upload = Upload(name, sent, round(time.monotonic() - start, 3), self.store.failures - before, error)
        if sent:
            log.info("%s: %.1f MB uploaded in %.1f s", name, sent / 1e6, upload.seconds)
        task.told(upload)
        return upload

    def _upload(self, folder: Folder, before: Callable[[ObjectStore], None]) -> int:
        """Send files, then the record; returns the bytes sent, 0 if the mirror had the folder."""
        store, record_name = self.store, f"{folder.name}/{folder.record}"
        record = (folder.path / folder.record).read_bytes()
        try:
            known = store.read(record_name)
        except NoObjectError:
            known = None
        if known == record:
            return 0
        if known is not None:
            store.delete(record_name)

        def send(name: str) -> None:
            with (folder.path / name).open("rb") as file:
                store.upload(f"{folder.name}/{name}", file, folder.files[name])

        _in_parallel(send, folder.files)
        for name in store.names(folder.name).keys() - folder.files.keys():
            store.delete(f"{folder.name}/{name}")
        before(store)
        store.write(record_name, record)
        return sum(entry["size"] for entry in folder.files.values()) + len(record)

    def read_record(self, name: str) -> bytes | None:
        """The record of a folder in the mirror; None if there is none.

        Raises:
            UserError: the store failed.
        """
        with _explained(self.store):
            try:
                return self.store.read(name)
            except NoObjectError:
                return None

    def names(self, folder: str) -> dict[str, int]:
        """As `ObjectStore.names`.

        Raises:
            UserError: the store failed.
        """
        with _explained(self.store):
            return self.store.names(folder)

    def download(self, name: str, record: str, files_key: str, target: Path) -> None:
        """Download a complete folder, compare all checksums, and write the record last.

        Args:
            name: folder in the mirror.
            record: name of its record.
            files_key: field of the record that lists the files. Those outside of the folder are left out.
            target: empty folder to write to.

        Raises:
            DamagedError: it is incomplete or damaged.
            UserError: the store failed.
            OSError: the disk is full or gone.
        """
        with _explained(self.store):
            try:
                content = self.store.read(f"{name}/{record}")
                files = _files_of(content, files_key)

                def get(file: str) -> None:
                    self.store.download(f"{name}/{file}", target / file, files[file])

                _in_parallel(get, files)
            except NoObjectError as error:
                raise DamagedError(str(error)) from None
        (target / record).write_bytes(content)
        sync(target / record)
        sync(target)

    def remove_all(self, folder: str, record: str) -> None:
        """Remove the folders in a folder of the mirror, the records first.

        Raises:
            UserError: the store failed.
        """
        with _explained(self.store):
            remove_folders(self.store, folder, record)


def remove_folders(store: ObjectStore, folder: str, record: str) -> None:
    """Remove a folder of the mirror with all folders in it, the records first.

    Raises:
        StoreError: the store failed.
    """
    names = store.names(folder)
    for name in names:
        if PurePosixPath(name).name == record:
            store.delete(f"{folder}/{name}")
    if names:
        store.delete_folder(folder)


def _files_of(record: bytes, key: str) -> dict[str, FileChecksum]:
    """The files that a record lists.

    Raises:
        DamagedError: it cannot be read, or names a file outside of the folder otherwise than as `../NAME`.
    """
    try:
        listed: dict[str, Any] = json.loads(record)[key]
        files: dict[str, FileChecksum] = {
            name: {"size": int(entry["size"]), "xxh128": str(entry["xxh128"])}
            for name, entry in listed.items()
            if not name.startswith("../")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"the record cannot be read ({first_line(error)})") from error
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise DamagedError(f"the record names the file {name!r}")
    return files


class _explained:  # noqa: N801 - used like a function
    """Turn a failure of the store into a UserError: without it, a run would begin again what the mirror has."""

    def __init__(self, store: ObjectStore) -> None:
        self._url = store.url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, StoreError) and not isinstance(error, NoObjectError):
            raise UserError(
                f"the mirror cannot be used: {error}",
                where=f"mirror={self._url}",
                remedy="run the same command again when the store works; mirror= without a value runs without it",
            ) from error


def check_mirror(url: str) -> None:
    """Write, read and delete a small object, without repetitions.

    Raises:
        UserError: the bucket does not exist, or the credentials of this machine do not suffice.
    """
    store = ObjectStore(url, attempts=1)
    data = b"written by reprise to see whether it may write here; it can be deleted\n"
    try:
        store.write(_PROBE, data)
        if store.read(_PROBE) != data:
            raise StoreError("an object that was just written has another content")
        store.delete(_PROBE)
    except StoreError as error:
        raise UserError(
            f"the mirror cannot be written: {error}",
            where=f"mirror={url}",
            remedy="create the bucket, and give this machine credentials that may list, read, write and delete there "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS; AWS_REGION, "
            "AWS_ENDPOINT_URL); or run without it: mirror=",
        ) from error


def _in_parallel(action: Callable[[str], None], names: Mapping[str, Any]) -> None:
    """Call the action with every name, a few at a time, in threads that the interpreter does not wait for.

    Raises:
        Exception: the first that an action raised; no further ones are begun.
    """
    left = deque(sorted(names))
    errors: list[BaseException] = []

    def work() -> None:
        while left and not errors:
            try:
                name = left.popleft()
            except IndexError:
                return
            try:
                action(name)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(FILES_AT_ONCE, len(left)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
