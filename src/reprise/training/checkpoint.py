"""Checkpoints: sharded tensors and one JSON file, published by one rename.

checkpoints/step-00000120/
  __0_0.distcp ...   tensors of each process (torch.distributed.checkpoint)
  .metadata          which tensor is where
  checkpoint.json    size of each file, and everything that resumes besides the tensors; written last
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from reprise.errors import UserError
from reprise.training.parallel import Processes
from reprise.workspace import Json, write_json

log = logging.getLogger(__name__)

DESCRIPTION = "checkpoint.json"
VERSION = 1


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Json], processes: Processes
) -> None:
    """Write a checkpoint; a kill at any moment leaves the whole of it or nothing under its name.

    Args:
        folder: its name; there is nothing there yet.
        model: sharded.
        optimizer: of the model's parameters.
        facts: everything else that resumes, as JSON.
        processes: all of them call.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    if processes.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    processes.wait()
    weights, moments = get_state_dict(model, optimizer)
    save({"model": weights, "optimizer": moments}, checkpoint_id=partial)
    if processes.is_first:
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        write_json(partial / DESCRIPTION, {"version": VERSION, "files": sizes, **facts})
        partial.rename(folder)
        _sync_folder(folder.parent)
    processes.wait()


def load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Json]:
    """Put a checkpoint's tensors into the model and the optimizer (None: only the model); gives its facts.

    Raises:
        UserError: the checkpoint is damaged.
    """
    facts = read_facts(folder)
    weights, moments = get_state_dict(model, optimizer if optimizer is not None else ())
    tensors: dict[str, Any] = {"model": weights}
    if optimizer is not None:
        tensors["optimizer"] = moments
    load(tensors, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer if optimizer is not None else (),
        model_state_dict=weights,
        optim_state_dict=moments if optimizer is not None else {},
    )
    return facts


def read_facts(folder: Path) -> dict[str, Json]:
    """What a checkpoint says of itself, after a check that its files are whole.

    Raises:
        UserError: a file is missing or cut, or the description is of another version.
    """
    path = folder / DESCRIPTION
    try:
        facts: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"the checkpoint has no readable description ({error})", where=str(path), remedy=_GO_BACK
        ) from None
    if facts.get("version") != VERSION:
        raise UserError(
            f"the checkpoint has version {facts.get('version')}, not {VERSION}", where=str(path), remedy=_GO_BACK
        )
    for name, size in facts["files"].items():
        file = folder / name
        actual = file.stat().st_size if file.exists() else None
        if actual != size:
            what = "is missing" if actual is None else f"has {actual:,} bytes, not {size:,}"
            raise UserError(f"a file of the checkpoint {what}", where=str(file), remedy=_GO_BACK)
    return facts


_GO_BACK = "delete that checkpoint's folder; the run goes on from the one before"


def checkpoints_in(folder: Path) -> list[Path]:
    """The published checkpoints of a stage, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.startswith("step-") and path.suffix != ".partial"]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are whole, and why newer ones were refused."""
    refused = []
    for path in checkpoints_in(folder):
        try:
            read_facts(path)
        except UserError as error:
            refused.append(str(error).splitlines()[0])
            log.warning("checkpoint %s is refused: %s", path.name, error)
            continue
        return path, refused
    return None, refused


def prune(folder: Path, keep_last: int) -> None:
    """Delete all but the newest checkpoints, and what a killed save left."""
    for path in checkpoints_in(folder)[keep_last:]:
        _delete(path)
    for path in folder.glob("*.partial"):
        _delete(path)


def _delete(path: Path) -> None:
    """Take the name away first: a kill half-way must not leave a cut checkpoint under a good name."""
    doomed = path.with_name(f"{path.name.removesuffix('.partial')}.deleted.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
