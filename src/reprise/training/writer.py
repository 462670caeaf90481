"""Checkpoints that are written by a thread while training continues.

On an accelerator the tensors are copied to the host first. On a CPU there is nothing to copy: weights and moments
change only when the optimizer steps, so the thread reads them while the next forward and backward pass runs, and the
optimizer waits for it.
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
    """Writes neither a random id nor the folder into `.metadata`: equal tensors are equal files, wherever they lie."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class CheckpointWriter:
    """Writes one checkpoint at a time. All processes call the same methods in the same order."""

    def __init__(self, processes: Processes, *, copies: bool | None = None) -> None:
        """`copies`: whether the tensors are copied first; None: if they are not on a CPU."""
        self._processes = processes
        self._copies = processes.device.type != "cpu" if copies is None else copies
        self._pins = processes.device.type == "cuda"
        """Copies into memory of a fixed address, which is kept for the next time."""
        self._stager = BlockingAsyncStager(cache_staged_state_dict=self._pins)
        self._staged: Any = None
        """Names of the tensors that the kept memory is for."""
        # A group of its own: its messages must not meet those of training, which other threads send.
        self._group = dist.new_group(backend="gloo") if processes.world > 1 else None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._folder: Path | None = None
        self._free = 0
        self.stall_s = 0.0
        """Seconds that training waited for it."""

    @property
    def is_done(self) -> bool:
        """Whether there is a checkpoint to `finish` without waiting; processes may differ."""
        return self._thread is not None and not self._thread.is_alive()

    def begin(self, folder: Path, tensors: dict[str, Any], facts: ResumeFacts, published: Callable[[], None]) -> None:
        """Start to write; a kill at any time leaves a complete checkpoint or none.

        Args:
            folder: must not exist yet.
            tensors: what `tensors_of` gives. On a CPU they must not change before `release`.
            facts: everything else that resumes, as JSON.
            published: called in the thread of the first process when the checkpoint is published.

        Raises:
            CheckpointError: the disk is full or gone; in all processes alike.
        """
        assert self._thread is None
        start = time.perf_counter()
        kept = copy.deepcopy(facts)  # training changes them while the thread writes
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
        # Not one of the threads that the interpreter waits for: a second Ctrl-C means now.
        self._thread = threading.Thread(
            target=self._write, args=(partial, folder, tensors, kept, published), daemon=True
        )
        self._thread.start()
        self.stall_s = time.perf_counter() - start

    def _copied(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The tensors on the host. The kept memory fits one set of names: with a mean of the weights there are more."""
        names = tree_structure(tensors)
        if names != self._staged:
            self._stager, self._staged = BlockingAsyncStager(cache_staged_state_dict=self._pins), names
        copied: dict[str, Any] = self._stager.stage(tensors)
        return copied

    def release(self) -> None:
        """Wait until the tensors that `begin` got may change."""
        if self._thread is not None and not self._copies:
            start = time.perf_counter()
            self._thread.join()
            self.stall_s += time.perf_counter() - start

    def finish(self) -> Path | None:
        """Wait until the checkpoint is published and give its folder; None if none was begun.

        Raises:
            CheckpointError: the disk is full or gone.
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
        """Wait until a checkpoint that was begun is published, whatever stopped training."""
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
            # Torch does not always say that a disk is full, but that a file has another length than it should.
            self._free = shutil.disk_usage(folder.parent).free
            if processes.is_first:
                shutil.rmtree(partial, ignore_errors=True)
