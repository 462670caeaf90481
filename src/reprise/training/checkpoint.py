"""Finds, checks, loads and prunes checkpoints, which `writer.py` writes.

checkpoints/step-00000120/
  __0_0.distcp ...   tensors of each process (torch.distributed.checkpoint)
  .metadata          which tensor is where
  checkpoint.json    size and checksum of each file, and all state besides the tensors; written last
"""

import json
import logging
import pickle
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load

from reprise.errors import UserError
from reprise.mirror import CHECKPOINT_RECORD
from reprise.storage import file_checksum
from reprise.training.adapter import frozen_names
from reprise.training.checkpoint_facts import VERSION, CheckpointFacts, parse_facts
from reprise.training.checkpoint_reader import CheckpointReader, PlainValuesPlanner
from reprise.training.optimizer import AnyOptimizer, parts_of
from reprise.training.parallel import Processes

log = logging.getLogger(__name__)

DESCRIPTION = CHECKPOINT_RECORD


def tensors_of(
    model: torch.nn.Module, optimizer: AnyOptimizer | None, average: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The tensors of a checkpoint by name, sharded as they are: weights, moments, mean of the weights.

    Weights that are frozen beside an adapter equal the base model's and are not saved.
    """
    if optimizer is None:
        return {"model": _trained(model, get_model_state_dict(model))}
    parts = parts_of(optimizer)
    new = [part for part in parts if not part.state]
    weights, moments = get_state_dict(model, parts)
    if new:  # torch made the moments by a step without gradients and counted it, which skews Adam's bias correction
        for state in (state for part in new for state in part.state.values() if "step" in state):
            state["step"] = torch.zeros_like(state["step"])
        weights, moments = get_state_dict(model, parts)
    return {"model": _trained(model, weights), "optimizer": moments, **({"average": average} if average else {})}


def _trained(model: torch.nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    left_out = frozen_names(model)
    return {name: weight for name, weight in weights.items() if name not in left_out}


def load_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: AnyOptimizer | None = None,
    average: dict[str, torch.Tensor] | None = None,
) -> CheckpointFacts:
    """Load a checkpoint's tensors and return its facts. Checksums are not compared.

    Args:
        folder: the checkpoint.
        model: model that the weights are loaded into.
        optimizer: optimizer that the moments are loaded into; None: they are not loaded.
        average: tensors that the mean of the weights is loaded into; None: it is not loaded.

    Raises:
        UserError: the checkpoint is damaged, or belongs to another model.
    """
    facts = read_facts(folder)
    tensors = tensors_of(model, optimizer, average or {})
    read_tensors(folder, tensors)
    # Frozen weights are not in the checkpoint; `read_tensors` has rejected any other missing weight.
    options = StateDictOptions(strict=False)
    if optimizer is None:
        set_model_state_dict(model, tensors["model"], options=options)
    else:
        set_state_dict(
            model,
            parts_of(optimizer),
            model_state_dict=tensors["model"],
            optim_state_dict=tensors["optimizer"],
            options=options,
        )
    return facts


def read_tensors(folder: Path, tensors: dict[str, Any], *, alone: bool = False) -> None:
    """Read a checkpoint into tensors.

    Args:
        folder: the checkpoint.
        tensors: what to read, as in `tensors_of`.
        alone: only this process reads; else all processes must call.

    Raises:
        UserError: tensors are missing or have other shapes; or it contains something other than tensors and numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            reader = CheckpointReader(folder)
            reader.read_metadata()
            load(tensors, storage_reader=reader, planner=PlainValuesPlanner(), no_dist=alone)
    except UserError:
        raise
    except (CheckpointException, ValueError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the checkpoint does not fit the model ({cause_of(error).strip()})",
            where=str(folder),
            remedy="use the recipe that the checkpoint was made with, or a checkpoint of this one",
        ) from error


def cause_of(error: BaseException) -> str:
    """The error message of the operating system, from the summary that torch raises for all processes."""
    if isinstance(error, CheckpointException):
        causes = [cause_of(wrapped[0]) for wrapped in error.failures.values()]
        return "; ".join(dict.fromkeys(causes)) or str(error)
    return str(error)


def read_facts(folder: Path) -> CheckpointFacts:
    """The facts of a checkpoint, after a check that its files exist with the right sizes.

    Raises:
        UserError: a file is missing or truncated, or the description has another version.
    """
    path = folder / DESCRIPTION
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no checkpoint: it has no {DESCRIPTION}", where=str(folder), remedy=_ANOTHER) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the description cannot be read ({error})", where=str(path), remedy=_ANOTHER) from None
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise UserError(f"the checkpoint has version {version}, not {VERSION}", where=str(path), remedy=_ANOTHER)
    try:
        facts = parse_facts(text)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"the description is damaged ({what})", where=str(path), remedy=_ANOTHER) from None
    for name, known in facts["files"].items():
        file = folder / name
        actual = file.stat().st_size if file.exists() else None
        if actual != known["size"]:
            what = "is missing" if actual is None else f"has {actual:,} bytes, not {known['size']:,}"
            raise UserError(f"a file of the checkpoint {what}", where=str(file), remedy=_ANOTHER)
    return facts


def check_content(folder: Path, processes: Processes) -> CheckpointFacts:
    """The facts of a checkpoint, after a check of all checksums; every process reads its share of the files.

    Raises:
        UserError: a file is missing, truncated or changed; raised in all processes.
    """
    problem = facts = None
    try:
        facts = read_facts(folder)
        check_sums(folder, facts, sorted(facts["files"])[processes.rank :: processes.world])
    except UserError as error:
        problem = error
    first = next((error for error in processes.gather(problem) if error is not None), None)
    if first is not None or facts is None:
        raise first or UserError("another process cannot read it", where=str(folder), remedy=_ANOTHER)
    return facts


def check_sums(folder: Path, facts: CheckpointFacts, names: Iterable[str]) -> None:
    """Compare the checksums of files of a checkpoint.

    Raises:
        UserError: one differs.
    """
    for name in names:
        if file_checksum(folder / name) != facts["files"][name]:
            raise UserError(
                "a file of the checkpoint is damaged: its checksum differs", where=str(folder / name), remedy=_ANOTHER
            )


_ANOTHER = "use another one: train-N.partial/checkpoints/step-..., or train-N/state of a finished stage"
REFUSED = ".refused"
"""Suffix of a damaged checkpoint, after a run resumed from an older one."""


def checkpoints_in(folder: Path) -> list[Path]:
    """The published checkpoints of a stage, newest first."""
    if not folder.is_dir():
        return []
    steps = {path: step_of(path.name) for path in folder.glob("step-*")}
    return sorted((path for path, step in steps.items() if step >= 0), key=lambda path: steps[path], reverse=True)


def step_of(name: str) -> int:
    """The step in the name of a published checkpoint; -1 if it is not the name of one."""
    step = name.removeprefix("step-")
    return int(step) if name.startswith("step-") and step.isdecimal() else -1


def newest_whole(folder: Path, processes: Processes) -> tuple[Path | None, CheckpointFacts | None, list[str]]:
    """The newest intact checkpoint, its facts, and why newer ones were rejected; every process must call.

    Rejected ones are renamed if an older one is intact, as the run will save under their names again.
    """
    refused: dict[Path, str] = {}
    for path in processes.same(checkpoints_in(folder)):
        try:
            facts = check_content(path, processes)
        except UserError as error:
            refused[path] = str(error).splitlines()[0]
            if processes.is_first:
                log.warning("checkpoint %s is refused: %s", path.name, refused[path])
            continue
        if processes.is_first:
            for bad in refused:
                aside = bad.with_name(f"{bad.name}{REFUSED}")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
        processes.wait()
        return path, facts, list(refused.values())
    return None, None, list(refused.values())


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after a step."""
    return f"step-{step:08d}"


def kept_checkpoints(
    newest_first: Sequence[str], keep_last: int, keep_every_tokens: int, tokens: Callable[[str], int]
) -> set[str]:
    """Names of the checkpoints that stay.

    Args:
        newest_first: all names.
        keep_last: how many of the latest are kept.
        keep_every_tokens: the first checkpoint after each multiple of this is kept; 0: none.
        tokens: name -> tokens of the stage at this checkpoint.
    """
    kept = set(newest_first[:keep_last])
    if keep_every_tokens:
        reached = 0
        for name in reversed(newest_first):
            multiple = tokens(name) // keep_every_tokens
            if multiple > reached:
                kept.add(name)
                reached = multiple
    return kept


def prune(folder: Path, keep_last: int, keep_every_tokens: int = 0, held: Collection[Path] = ()) -> None:
    """Delete the remains of a killed save, and the checkpoints that are neither among the latest nor kept permanently.

    Rejected checkpoints are deleted together with the last checkpoint.

    Args:
        folder: folder of the checkpoints.
        keep_last: how many of the latest are kept.
        keep_every_tokens: the first checkpoint after each multiple of this is kept; 0: none.
        held: checkpoints that are in use, and stay this time.
    """
    published = checkpoints_in(folder)
    names = [path.name for path in published]
    kept = kept_checkpoints(names, keep_last, keep_every_tokens, lambda name: tokens_at(folder / name))
    for path in published:
        if path.name not in kept and path not in held:
            _delete(path)
    for path in [*folder.glob("*.partial"), *(folder.glob(f"*{REFUSED}") if keep_last == 0 else ())]:
        _delete(path)


def tokens_at(folder: Path) -> int:
    """Tokens of the stage at a checkpoint; 0 if it is damaged."""
    try:
        return int(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["progress"]["tokens"])
    except (OSError, ValueError, KeyError):
        return 0


def _delete(path: Path) -> None:
    """Rename first, then delete: a kill in between must not leave a truncated checkpoint under a valid name."""
    doomed = path.with_name(f"{path.name.removesuffix('.partial')}.deleted.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)
