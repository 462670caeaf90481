"""Checkpoints are written by a thread while training continues.

On an accelerator the tensors are copied to the host first. On a CPU they are not copied: weights and moments only
change in the optimizer step, so the thread reads them during the next forward and backward pass, and the optimizer
waits for it.
"""

import copy
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils._pytree import tree_structure

from reprise.storage import file_checksum, sync, write_json
from reprise.training.checkpoint import DESCRIPTION, cause_of
from reprise.training.checkpoint_facts import ResumeFacts, write_facts
from reprise.training.parallel import Processes


class CheckpointError(Exception):
    """A checkpoint could not be written; earlier ones are intact."""


class _NamelessFiles(FileSystemWriter):
    """Writes no random id and no path to `.metadata`, so that equal tensors give equal files."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class CheckpointWriter:
    """Writes one checkpoint at a time. All processes call the same methods in the same order."""

    def __init__(self, processes: Processes, *, copies: bool | None = None) -> None:
        """Create a writer.

        Args:
            processes: all processes.
            copies: whether tensors are copied before they are written; None: if they are not on the CPU.
        """
        self._processes = processes
        self._copies = processes.device.type != "cpu" if copies is None else copies
        self._pins = processes.device.type == "cuda"
        """Whether copies go to pinned memory, which is reused by the next checkpoint."""
        self._stager = BlockingAsyncStager(cache_staged_state_dict=self._pins)
        self._staged: Any = None
        """Structure of the tensors that the pinned memory was allocated for."""
        # A separate group, as training uses its own from another thread.
        self._group = dist.new_group(backend="gloo") if processes.world > 1 else None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._folder: Path | None = None
        self._free = 0
        self.stall_s = 0.0
        """Seconds that training waited for the current checkpoint."""

    @property
    def is_done(self) -> bool:
        """Whether `finish` would return a checkpoint without waiting; may differ between processes."""
        return self._thread is not None and not self._thread.is_alive()

    def begin(self, folder: Path, tensors: dict[str, Any], facts: ResumeFacts, published: Callable[[], None]) -> None:
        """Start to write a checkpoint. If killed, there is a complete checkpoint or none.

        Args:
            folder: folder to write; must not exist.
            tensors: from `tensors_of`. On a CPU they must not change before `release`.
            facts: everything else that resumes.
            published: called in the first process, by the thread, when the checkpoint is published.

        Raises:
            CheckpointError: the folder cannot be written, such as on a full disk; raised in all processes.
        """
        assert self._thread is None
        start = time.perf_counter()
        kept = copy.deepcopy(facts)  # training changes it while the thread writes
        partial = folder.with_name(f"{folder.name}.partial")
        failure = ""
        if self._processes.is_first:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            except OSError as error:
                failure = str(error)
        if failure := self._processes.same(failure):
            raise CheckpointError(f"{folder} cannot be written: {failure}")
        if self._copies:
            tensors = self._copied(tensors)
        self._folder, self._failure = folder, None
        # A daemon thread, as a second Ctrl-C must stop at once.
        self._thread = threading.Thread(
            target=self._write, args=(partial, folder, tensors, kept, published), daemon=True
        )
        self._thread.start()
        self.stall_s = time.perf_counter() - start

    def _copied(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Copy the tensors to the host. Pinned memory is reused unless a weight average changes their structure."""
        names = tree_structure(tensors)
        if names != self._staged:
            self._stager, self._staged = BlockingAsyncStager(cache_staged_state_dict=self._pins), names
        copied: dict[str, Any] = self._stager.stage(tensors)
        return copied

    def release(self) -> None:
        """Wait until the tensors passed to `begin` may change."""
        if self._thread is not None and not self._copies:
            start = time.perf_counter()
            self._thread.join()
            self.stall_s += time.perf_counter() - start

    def finish(self) -> Path | None:
        """Wait until the checkpoint is published, and return its folder; None if none was started.

        Raises:
            CheckpointError: the checkpoint could not be written, such as on a full disk.
        """
        if self._thread is None:
            return None
        start = time.perf_counter()
        self._thread.join()
        self.stall_s += time.perf_counter() - start
        self._thread = None
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError | CheckpointException):
            raise CheckpointError(
                f"{self._folder} cannot be written ({self._free:,} bytes are free there): {cause_of(failure)}"
            ) from failure
        if failure is not None:
            raise failure
        return self._folder

    def wait(self) -> None:
        """Wait for the thread without raising its error; called when training stops for another reason."""
        if self._thread is not None:
            self._thread.join()

    def _write(
        self, partial: Path, folder: Path, tensors: dict[str, Any], facts: ResumeFacts, published: Callable[[], None]
    ) -> None:
        processes = self._processes
        try:
            save(tensors, storage_writer=_NamelessFiles(partial), process_group=self._group)
            own = [path for path in partial.iterdir() if path.name.startswith(f"__{processes.rank}_")]
            own += [partial / ".metadata"] if processes.is_first else []
            parts: list[Any] = [{path.name: file_checksum(path) for path in own}]
            if self._group is not None:
                parts = parts * processes.world
                dist.all_gather_object(parts, parts[0], group=self._group)
            if processes.is_first:
                files = {name: value for part in parts for name, value in sorted(part.items())}
                write_json(partial / DESCRIPTION, write_facts(facts, files))
                partial.rename(folder)
                sync(folder.parent)
                published()
        except BaseException as error:
            self._failure = error
            # Torch may report a full disk as a file of unexpected length, so the message shows the free space.
            self._free = shutil.disk_usage(folder.parent).free
            if processes.is_first:
                shutil.rmtree(partial, ignore_errors=True)
