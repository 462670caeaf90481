"""Writes weights to a Hugging Face directory: of a run, of a checkpoint, or merged with the base model's."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from reprise.errors import UserError
from reprise.model.loading import (
    copy_tokenizer_and_code,
    load_config,
    load_generation_settings,
    load_model,
    load_skeleton,
    names_match,
    open_model_weights,
)
from reprise.model.objective import Objective
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model
from reprise.recipe.training import Adapter
from reprise.storage import write_json
from reprise.training.adapter import add_adapter, check_adapter, merge_adapters
from reprise.training.averaging import distinct_weights
from reprise.training.checkpoint import check_sums, read_facts, read_tensors
from reprise.training.checkpoint_facts import CheckpointFacts
from reprise.training.network import decoder_layers
from reprise.training.parallel import Processes
from reprise.training.published import check_published, make_probe
from reprise.training.sharded_weights import whole, write_shards


def write_model(
    objective: Objective,
    average: Mapping[str, torch.Tensor],
    settings: Model,
    folder: Path,
    processes: Processes,
    *,
    verify: bool,
) -> None:
    """Gather the weights and write them, in the base model's own type, with its tokenizer and code.

    Args:
        objective: the trained model; may be sharded.
        average: mean of the weights, which is written instead of the weights unless it is empty.
        settings: settings of the base model.
        folder: folder to write.
        processes: all processes, which must all call; the first one writes.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: loaded in another process, the folder is not the model that was trained.
    """
    current = merge_adapters(objective, distinct_weights(objective, frozen=True) | dict(average))
    dtype = _write(objective, current, settings, folder, writes=processes.is_first)
    if verify:
        probe = make_probe(objective, average, settings)
        processes.first(lambda: check_published(folder, probe, settings, _least_exact(objective, dtype)))
    processes.wait()


def export_checkpoint(
    checkpoint: Path, settings: Model, folder: Path, *, averaged: bool = False, verify: bool = False
) -> None:
    """Write the Hugging Face directory of a checkpoint, however many processes wrote it.

    Args:
        checkpoint: folder `checkpoints/step-...` or `state` of a stage.
        settings: settings of the base model.
        folder: folder to write; must not exist.
        averaged: write the mean of the weights instead of the weights.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: the checkpoint is damaged, belongs to another model or has no mean; the folder exists or cannot be
            written.
    """
    facts = read_facts(checkpoint)
    if averaged and not facts["averaged"]:
        raise UserError(
            "the checkpoint contains no mean of the weights", where=str(checkpoint), remedy="leave out --averaged"
        )
    with new_folder(folder) as partial:
        check_sums(checkpoint, facts, facts["files"])
        objective = _untrained(settings, facts)
        weights = distinct_weights(objective)
        read_tensors(checkpoint, {"average" if averaged else "model": weights}, alone=True)
        _finish(objective, distinct_weights(objective, frozen=True), settings, partial, verify=verify)


def _untrained(settings: Model, facts: CheckpointFacts) -> Objective:
    """The base model, with the adapter that a checkpoint was trained with."""
    adapter = Adapter(**facts["settings"]["adapter"])
    check_adapter(adapter, torch.device("cpu"), world=1)
    dtype = torch.float32
    if adapter.kind != "none" and facts["settings"]["precision"] == str(torch.bfloat16):
        dtype = torch.bfloat16  # the frozen weights had been rounded to it
    model = load_model(settings, dtype)
    add_adapter(model, decoder_layers(model), adapter, dtype)
    return Objective(model)


def merge_with_base(trained: Path, settings: Model, factor: float, folder: Path, *, verify: bool = False) -> None:
    """Write (1 - factor) * base + factor * trained: less gain, less forgetting.

    Args:
        trained: Hugging Face directory of the trained model.
        settings: settings of the base model.
        factor: weight of the trained model: 0 is the base model, 1 the trained one.
        folder: folder to write; must not exist.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: the factor is not 0 to 1, the models differ in shape, or the folder exists or cannot be written.
    """
    if not 0.0 <= factor <= 1.0:
        raise UserError(
            "the factor must be 0 to 1", where=f"--factor {factor:g}", remedy="0 is the base, 1 the trained model"
        )
    with new_folder(folder) as partial:
        objective = _merge(trained, settings, factor)
        _finish(objective, distinct_weights(objective), settings, partial, verify=verify)


def _merge(trained: Path, settings: Model, factor: float) -> Objective:
    base = load_model(settings)
    other: dict[str, Any] = load_model(settings.model_copy(update=_LOCAL | {"path": str(trained)})).state_dict()
    differing = [
        name for name, value in base.state_dict().items() if name not in other or other[name].shape != value.shape
    ]
    if differing:
        raise UserError(
            f"it has no {differing[0]} of the base model's shape",
            where=str(trained),
            remedy="name a model trained from this base",
        )
    objective = Objective(base)
    for name, value in distinct_weights(objective).items():
        if value.is_floating_point():
            value.lerp_(other[name.removeprefix("model.")], factor)
    return objective


_LOCAL: dict[str, Any] = {"revision": None, "gguf_file": None}


def _finish(objective: Objective, weights: Mapping[str, Any], settings: Model, folder: Path, *, verify: bool) -> None:
    dtype = _write(objective, merge_adapters(objective, weights), settings, folder)
    if verify:
        check_published(folder, make_probe(objective, {}, settings), settings, _least_exact(objective, dtype))


def _least_exact(objective: Objective, written: torch.dtype) -> torch.dtype:
    """The type that limits the accuracy of a comparison: with an adapter the trained model computes in bfloat16."""
    return torch.bfloat16 if any(one.dtype == torch.bfloat16 for one in objective.parameters()) else written


def _write(
    objective: Objective, weights: Mapping[str, Any], settings: Model, folder: Path, *, writes: bool = True
) -> torch.dtype:
    """Write the folder and return the type of its weights.

    Names begin with `model.`, as in `Objective`. If the weights are sharded, every process must call.
    """
    config = load_config(settings)
    config.dtype = config.dtype or torch.float32
    plain = {name.removeprefix("model."): value for name, value in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with system_errors(folder):
        _write_weights(objective, plain, config.dtype, settings, folder, writes=writes)
    if writes:
        _write_descriptions(config, settings, folder)
    return torch.float32 if config.dtype is None else config.dtype


def _write_descriptions(config: Any, settings: Model, folder: Path) -> None:
    """Write everything but the weights; the files of tokenizer and code are copies of the base model's."""
    generation = load_generation_settings(settings)
    eos_id = None if settings.eos is None else open_tokenizer(settings).eos_id
    if eos_id is not None:
        config.eos_token_id = eos_id
    if getattr(config, "auto_map", None):  # the code is in the folder itself, not in another repository
        config.auto_map = {name: _local_code(code) for name, code in config.auto_map.items()}
    config.save_pretrained(folder)
    if generation is not None:
        if eos_id is not None:
            generation.eos_token_id = eos_id
        generation.save_pretrained(folder)
    copy_tokenizer_and_code(settings, folder)
    described = folder / "tokenizer_config.json"
    if settings.eos is not None and described.is_file():
        content = json.loads(described.read_text(encoding="utf-8"))
        write_json(described, content | {"eos_token": settings.eos})


def _local_code(code: Any) -> Any:
    """`module.Class` from `repository--module.Class`; a tokenizer has a list of two."""
    return [_local_code(one) for one in code] if isinstance(code, list) else code and code.rpartition("--")[2]


def _write_weights(
    objective: Objective, plain: Mapping[str, Any], dtype: torch.dtype, settings: Model, folder: Path, *, writes: bool
) -> None:
    if names_match(load_skeleton(settings), settings, open_model_weights(settings)):
        write_shards(plain, dtype, folder, writes=writes)
    else:  # transformers converts the names and shapes back, which needs all weights at once
        gathered = {name: whole(value, dtype, writes=writes) for name, value in plain.items()}
        if writes:
            objective.model.save_pretrained(folder, state_dict=gathered)


@contextlib.contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Raise disk errors as OSError, as safetensors wraps them in an exception of its own."""
    try:
        yield
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(folder)) from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, renamed to `folder` when the block succeeds.

    Raises:
        UserError: the folder exists, or it cannot be written.
    """
    if folder.exists():
        raise UserError("the folder exists", where=str(folder), remedy="name another one, or delete it")
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"the model cannot be written: {error.strerror or error}",
            where=str(folder),
            remedy="free some space, or name a folder that you may write",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
