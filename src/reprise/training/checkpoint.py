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
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from reprise.errors import UserError
from reprise.training.parallel import Processes
from reprise.workspace import Json, write_json

log = logging.getLogger(__name__)

DESCRIPTION = "checkpoint.json"
VERSION = 1


class CheckpointError(Exception):
    """A checkpoint could not be written; what was saved before is whole."""


def save_checkpoint(folder: Path, tensors: dict[str, Any], facts: dict[str, Json], processes: Processes) -> None:
    """Write a checkpoint; a kill at any moment leaves the whole of it or nothing under its name.

    Args:
        folder: its name; there is nothing there yet.
        tensors: what `tensors_of` gives.
        facts: everything else that resumes, as JSON.
        processes: all of them call.

    Raises:
        CheckpointError: the disk is full or gone; in all processes alike.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    failure = ""
    try:
        if processes.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    except OSError as error:
        failure = str(error)
    processes.wait()
    try:
        save(tensors, checkpoint_id=partial)
        if processes.is_first:
            sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
            write_json(partial / DESCRIPTION, {"version": VERSION, "files": sizes, **facts})
            partial.rename(folder)
            _sync_folder(folder.parent)
    except (OSError, CheckpointException) as error:
        failure = failure or _cause(error)
    if processes.any(bool(failure)):
        if processes.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{folder} cannot be written: {failure or 'another process failed'}")


def _cause(error: BaseException) -> str:
    """What the system said, out of the summary that torch makes of all processes."""
    if isinstance(error, CheckpointException):
        causes = [_cause(wrapped[0]) for wrapped in error.failures.values()]
        return "; ".join(dict.fromkeys(causes)) or str(error)
    return str(error)


def tensors_of(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, average: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The tensors that resume, by name, sharded as they are: weights, moments, mean of the weights."""
    if optimizer is None:
        return {"model": get_model_state_dict(model)}
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, **({"average": average} if average else {})}


def load_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: dict[str, torch.Tensor] | None = None,
) -> dict[str, Json]:
    """Put a checkpoint's tensors in their places; gives its facts.

    Args:
        folder: the checkpoint.
        model: takes the weights.
        optimizer: takes the moments; None leaves them.
        average: tensors that take the mean of the weights; None leaves it.

    Raises:
        UserError: the checkpoint is damaged.
    """
    facts = read_facts(folder)
    tensors = tensors_of(model, optimizer, average or {})
    load(tensors, checkpoint_id=folder)
    if optimizer is None:
        set_model_state_dict(model, tensors["model"])
    else:
        set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
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


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after a step."""
    return f"step-{step:08d}"


def prune(folder: Path, keep_last: int, keep_every_tokens: int = 0) -> None:
    """Delete what a killed save left, and the checkpoints that are neither among the newest nor kept for good.

    Args:
        folder: of the checkpoints.
        keep_last: how many of the newest stay.
        keep_every_tokens: the first checkpoint after each multiple of this stays; 0: none.
    """
    found = checkpoints_in(folder)
    kept = {path.name for path in found[:keep_last]}
    if keep_every_tokens:
        reached = 0
        for path in reversed(found):
            multiple = _tokens(path) // keep_every_tokens
            if multiple > reached:
                kept.add(path.name)
                reached = multiple
    for path in found:
        if path.name not in kept:
            _delete(path)
    for path in folder.glob("*.partial"):
        _delete(path)


def _tokens(folder: Path) -> int:
    """Tokens of the stage at a checkpoint; 0 where it is damaged."""
    try:
        return int(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["progress"]["tokens"])
    except (OSError, ValueError, KeyError):
        return 0


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
