"""Checkpoints: sharded tensors and one JSON file, published by one rename.

checkpoints/step-00000120/
  __0_0.distcp ...   tensors of each process (torch.distributed.checkpoint)
  .metadata          which tensor is where
  checkpoint.json    size and checksum of each file, and everything that resumes besides the tensors; written last
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load

from reprise.errors import UserError
from reprise.training.parallel import Processes
from reprise.workspace import Json

log = logging.getLogger(__name__)

DESCRIPTION = "checkpoint.json"
VERSION = 2


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
    """Put a checkpoint's tensors in their places; gives its facts. Checksums are not looked at.

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
    """What a checkpoint says of itself, after a check that its files are there and have their sizes.

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
    for name, known in facts["files"].items():
        file = folder / name
        actual = file.stat().st_size if file.exists() else None
        if actual != known["size"]:
            what = "is missing" if actual is None else f"has {actual:,} bytes, not {known['size']:,}"
            raise UserError(f"a file of the checkpoint {what}", where=str(file), remedy=_GO_BACK)
    return facts


def check_content(folder: Path, processes: Processes) -> dict[str, Json]:
    """What a checkpoint says of itself, after a check of all checksums; every process reads its share of the files.

    Raises:
        UserError: a file is missing, cut or changed; in all processes alike.
    """
    problem = facts = None
    try:
        facts = read_facts(folder)
        for name in sorted(facts["files"])[processes.rank :: processes.world]:
            if digest_content(folder / name) != facts["files"][name]:
                raise UserError(
                    "a file of the checkpoint is damaged: its checksum differs",
                    where=str(folder / name),
                    remedy=_GO_BACK,
                )
    except UserError as error:
        problem = error
    found = next((error for error in processes.gather(problem) if error is not None), None)
    if found is not None or facts is None:
        raise found or UserError("another process cannot read it", where=str(folder), remedy=_GO_BACK)
    return facts


def digest_content(path: Path) -> dict[str, Json]:
    """Size and checksum of a file, as a checkpoint keeps them."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            hasher.update(block)
    return {"size": path.stat().st_size, "xxh128": hasher.hexdigest()}


_GO_BACK = "delete that checkpoint's folder; the run goes on from the one before"


def checkpoints_in(folder: Path) -> list[Path]:
    """The published checkpoints of a stage, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.startswith("step-") and path.suffix != ".partial"]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest_whole(folder: Path, processes: Processes) -> tuple[Path | None, dict[str, Json], list[str]]:
    """The newest checkpoint whose files are whole, its facts, and why newer ones were refused; every process calls."""
    refused = []
    for path in processes.same(checkpoints_in(folder)):
        try:
            facts = check_content(path, processes)
        except UserError as error:
            refused.append(str(error).splitlines()[0])
            log.warning("checkpoint %s is refused: %s", path.name, error)
            continue
        return path, facts, refused
    return None, {}, refused


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
