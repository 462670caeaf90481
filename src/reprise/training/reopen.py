"""Turn a finished training stage into an unfinished one at its last step, so that it can be trained further."""

import shutil
from pathlib import Path

from reprise.storage import link_file
from reprise.training.checkpoint import checkpoint_name, read_facts

COPIED = ("metrics.jsonl", "shares.json", "shares-applied.json")
"""Files that training appends to."""


def lay_out_unfinished(finished: Path, partial: Path) -> None:
    """Fill an unpublished folder with a finished stage's records, and its last state as the latest checkpoint.

    Checkpoints are never modified, so they are hard links if the file system supports these.

    Args:
        finished: folder of the stage, which is not changed.
        partial: an empty folder.

    Raises:
        UserError: the final state is damaged.
    """
    for name in COPIED:
        if (finished / name).exists():
            shutil.copy2(finished / name, partial / name)
    if (finished / "checkpoints").is_dir():
        shutil.copytree(finished / "checkpoints", partial / "checkpoints", copy_function=link_file)
    step = read_facts(finished / "state")["progress"].step
    last = partial / "checkpoints" / checkpoint_name(step)
    if not last.exists():
        shutil.copytree(finished / "state", last, copy_function=link_file)
