"""Finished stages in the run's mirror: uploaded in the background, downloaded when the disk has not got them."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from reprise.errors import UserError
from reprise.manifest import MANIFEST, Derivation, read_manifest
from reprise.mirror import CHECKPOINT_RECORD, Folder, Mirror, remove_folders
from reprise.object_store import DamagedError, ObjectStore
from reprise.recipe.loading import KEPT
from reprise.workspace import Workspace

log = logging.getLogger(__name__)

MADE_AGAIN = frozenset({"report"})
"""Stages that are uploaded, but made again rather than downloaded: they also write files outside of their folder."""


class MirroredStages:
    """The stages of one run in its mirror; only the first process has one."""

    def __init__(self, workspace: Workspace, url: str) -> None:
        self._workspace = workspace
        self.mirror = Mirror(url)

    def fetch(self, derivation: Derivation) -> tuple[bool, str]:
        """Download a stage and publish it, if the mirror's was made from the same settings, inputs and files.

        Returns:
            Whether it was published; and why the mirror's was refused, empty if it was not.

        Raises:
            UserError: the store failed.
        """
        stage = derivation.stage
        record = None if stage in MADE_AGAIN else self.mirror.read_record(f"{stage}/{MANIFEST}")
        if record is None:
            return False, ""
        copy = self._workspace.root / f".{stage}.fetched"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        try:
            if not _is_of(copy, record, derivation):
                return False, ""
            self.mirror.download(stage, MANIFEST, "outputs", copy)
            self._workspace.publish_copy(copy, stage)
        except DamagedError as error:
            return False, str(error)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return True, ""

    def keep(self, stage: str) -> None:
        """Begin to upload a published stage; nothing is sent if the mirror has it."""
        manifest = self._workspace.manifest(stage)
        assert manifest is not None, "a stage is mirrored once it is published"
        files = {name: entry for name, entry in manifest.outputs.items() if not name.startswith("../")}
        beside = [name.removeprefix("../") for name in manifest.outputs if name.startswith("../")]
        folder = Folder(self._workspace.folder(stage), stage, MANIFEST, files)
        self.mirror.add(folder, after=partial(_finish, self._workspace.root, stage, beside))

    def forget_progress(self, stage: str) -> None:
        """Remove the checkpoints of an unfinished training stage, as `--restart` does on the disk.

        Raises:
            UserError: the store failed.
        """
        self.mirror.remove_all(f"{stage}.partial", CHECKPOINT_RECORD)

    def finish(self, say: Callable[[str], None]) -> None:
        """Wait until everything is uploaded, as long as bytes are sent, and say what is not in the mirror."""
        for name, why in self.mirror.wait(say=say).items():
            say(f"warning: {name} is not in the mirror: {why}; the same command tries again")


def _is_of(copy: Path, record: bytes, derivation: Derivation) -> bool:
    """Whether a manifest in the mirror is intact and of a derivation."""
    (copy / MANIFEST).write_bytes(record)
    try:
        return read_manifest(copy / MANIFEST).fingerprint == derivation.fingerprint
    except UserError as error:
        raise DamagedError(error.what) from None


def _finish(root: Path, stage: str, beside: list[str], store: ObjectStore) -> None:
    """Upload the files beside a stage's folder and the recipe, and remove the progress of the stage."""
    for name in [*beside, KEPT]:
        if (root / name).is_file():
            store.write(name, (root / name).read_bytes())
    remove_folders(store, f"{stage}.partial", CHECKPOINT_RECORD)
