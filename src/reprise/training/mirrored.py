"""Checkpoints in the run's mirror: uploaded while training continues, downloaded on an empty disk."""

import json
import logging
import shutil
from collections import deque
from pathlib import Path

from reprise.mirror import Folder, Mirror, Upload, remove_folders
from reprise.object_store import DamagedError, NoObjectError, ObjectStore
from reprise.recipe.training import Checkpoints
from reprise.storage import sync
from reprise.training.checkpoint import (
    DESCRIPTION,
    REFUSED,
    kept_checkpoints,
    read_facts,
    step_of,
    tokens_at,
)

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
LEAVE_S = 100.0
"""Longest wait for an upload after a signal; a spot machine of Amazon is taken away 120 seconds after it."""


class CheckpointMirror:
    """The checkpoints of one training stage in the mirror; used by the first process only."""

    def __init__(self, mirror: Mirror, output: Path, settings: Checkpoints) -> None:
        """`output`: folder of the unfinished stage, `train-N.partial`."""
        self._mirror, self._output, self._settings = mirror, output, settings
        self._name = f"{output.name}/checkpoints"
        self._outcomes: deque[Upload] = deque()

    @property
    def holds(self) -> set[Path]:
        """Checkpoints that must not be deleted yet."""
        return self._mirror.holds

    def offer(self, folder: Path) -> None:
        """Begin to upload a published checkpoint, unless the mirror has it; it must be the newest."""
        files = read_facts(folder)["files"]
        uploaded = Folder(folder, f"{self._name}/{folder.name}", DESCRIPTION, files)
        log_size = (self._output / METRICS).stat().st_size if (self._output / METRICS).exists() else 0

        def send_metrics(store: ObjectStore) -> None:
            with (self._output / METRICS).open("rb") as file:
                store.write(f"{self._output.name}/{METRICS}", file.read(log_size))

        def prune(store: ObjectStore) -> None:
            self._prune(store, folder.name)

        self._mirror.add_checkpoint(uploaded, before=send_metrics, after=prune, told=self._outcomes.append)

    def outcomes(self) -> list[Upload]:
        """The uploads that ended since the last call."""
        ended = []
        while self._outcomes:
            ended.append(self._outcomes.popleft())
        return ended

    def finish(self) -> None:
        """Give up what is being uploaded: the stage is complete, and its folder is uploaded instead."""
        self._mirror.drop_checkpoints()

    def leave(self) -> None:
        """Wait for the upload of the last checkpoint, but not for long: the machine may be taken away."""
        if self._mirror.holds:
            log.warning("waiting up to %.0f s until the checkpoint is in the mirror; it is on disk already", LEAVE_S)
        for name, why in self._mirror.wait(LEAVE_S).items():
            log.warning("%s is not in the mirror: %s", name, why)

    def fetch_newer(self, checkpoints: Path, than: int) -> tuple[Path | None, list[str]]:
        """Download the newest intact checkpoint of the mirror.

        Args:
            checkpoints: folder for it.
            than: step of the newest one on disk; older ones are not downloaded. -1: there is none.

        Returns:
            Its folder, None if there is none; and why newer ones were refused.

        Raises:
            UserError: the store failed.
        """
        refused = []
        for name in _complete(self._mirror.names(self._name)):
            if step_of(name) <= than:
                break
            target = checkpoints / name
            partial = target.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                self._mirror.download(f"{self._name}/{name}", DESCRIPTION, "files", partial)
                read_facts(partial)
            except (DamagedError, ValueError) as error:
                refused.append(f"{name} in the mirror: {str(error).splitlines()[0]}")
                log.warning("checkpoint %s", refused[-1])
                shutil.rmtree(partial)
                continue
            if target.exists():  # damaged, or it would have been resumed
                aside = target.with_name(f"{name}{REFUSED}")
                shutil.rmtree(aside, ignore_errors=True)
                target.rename(aside)
            partial.rename(target)
            sync(checkpoints)
            self._fetch_metrics()
            return target, refused
        return None, refused

    def _fetch_metrics(self) -> None:
        """The events up to the checkpoint, if this disk has none. The file may be open, so it is not replaced."""
        path = self._output / METRICS
        if path.exists() and path.stat().st_size:
            return
        events = self._mirror.read_record(f"{self._output.name}/{METRICS}")
        if events is not None:
            path.write_bytes(events)

    def _prune(self, store: ObjectStore, newest: str) -> None:
        """Remove what is removed on disk, and what killed uploads left; called in the mirror's thread."""
        objects = store.names(self._name)
        complete = _complete(objects)
        tokens = {name: self._tokens(store, name) for name in complete} if self._settings.keep_every_tokens else {}
        kept = kept_checkpoints(
            complete, self._settings.keep_last, self._settings.keep_every_tokens, lambda name: tokens[name]
        )
        for name in {name.partition("/")[0] for name in objects} - kept - {newest}:
            remove_folders(store, f"{self._name}/{name}", DESCRIPTION)

    def _tokens(self, store: ObjectStore, name: str) -> int:
        on_disk = self._output / "checkpoints" / name
        if on_disk.is_dir():
            return tokens_at(on_disk)
        try:
            return int(json.loads(store.read(f"{self._name}/{name}/{DESCRIPTION}"))["progress"]["tokens"])
        except (NoObjectError, ValueError, KeyError):
            return 0


def _complete(objects: dict[str, int]) -> list[str]:
    """Names of the complete checkpoints among objects, newest first."""
    folders = {name.partition("/")[0] for name in objects if name.endswith(f"/{DESCRIPTION}")}
    steps = {name: step_of(name) for name in folders}
    return sorted((name for name, step in steps.items() if step >= 0), key=lambda name: steps[name], reverse=True)
