"""Whether a recipe fits into memory: for `reprise plan`, before the first step, and after running out of memory."""

import contextlib
from pathlib import Path
from typing import Any, Literal

import torch

from reprise.errors import UserError
from reprise.model.flops import count_parameters
from reprise.model.loading import load_config
from reprise.model.machine import describe_machine
from reprise.recipe import Recipe
from reprise.recipe.hardware import MEMORY_GB
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.training.memory_advice import changes_that_fit
from reprise.training.memory_estimate import Setup, UnknownShapeError, estimate_memory, measure_shape
from reprise.training.memory_records import MemoryPlan
from reprise.training.parallel import Processes, compute_dtype

USABLE = 0.95
"""Share of a GPU's memory that tensors can use; the rest is lost to fragmentation."""

GPUS_PER_NODE = 8

REFUSE_ABOVE = 1.15
"""Estimate / memory above which a run ends before its first step: larger than any error of the estimate."""

WORTH_A_LOOK = 0.4
"""If weights and moments alone take less than this share of the memory, nothing is estimated before a run."""


def plan_memory(recipe: Recipe) -> MemoryPlan:
    """Estimate the memory of training by a recipe; loads the model's configuration, no weights.

    Raises:
        UserError: the configuration cannot be loaded.
    """
    hardware = recipe.hardware
    gpus = hardware.gpus or 1
    memory = hardware.memory_gb or MEMORY_GB.get(hardware.gpu)
    setup = Setup.of(
        recipe.training,
        recipe.rows,
        device="cuda",
        world=gpus,
        local_world=GPUS_PER_NODE,
        bf16=recipe.training.precision != "float32",
    )
    plan: MemoryPlan = {"gpu": hardware.gpu, "gpus": gpus, "memory_gb": memory, "estimate": None, "fits": None,
                        "changes": [], "note": None}  # fmt: skip
    config = load_config(recipe.model)
    try:
        estimate = estimate_memory(measure_shape(config, setup), setup)
    except UserError as error:
        return plan | {"note": str(error)}
    except UnknownShapeError:
        return plan | {"note": "the activations of this kind of model are not known before it runs"}
    plan["estimate"] = estimate
    if memory is None:
        return plan | {"note": "set hardware.memory_gb"}
    limit = memory * 1e9 * USABLE
    plan["fits"] = estimate["total"] <= limit
    if not plan["fits"]:
        plan["changes"] = [str(change) for change in changes_that_fit(config, setup, limit)]
    return plan


def memory_lines(plan: MemoryPlan) -> list[str]:
    """A plan in words: the total and its parts, then `fits` or the changes that would make it fit."""
    estimate = plan["estimate"]
    if estimate is None:
        return [f"memory of a GPU: not known: {plan['note']}"]
    names = ("frozen", "master", "working", "moments", "average", "gradients", "gathered", "activations", "layer_work",
             "head_and_loss", "fixed")  # fmt: skip
    values: dict[str, Any] = dict(estimate)
    parts = ", ".join(f"{name.replace('_', ' ')} {values[name] / 1e9:.1f}" for name in names if values[name])
    gpus = f"{plan['gpus']} GPU{'s' if plan['gpus'] > 1 else ''}"
    lines = [f"memory of each of {gpus}: {estimate['total'] / 1e9:.1f} GB at the peak of a step ({parts})"]
    if plan["fits"] is None:
        return [*lines, str(plan["note"])]
    if plan["fits"]:
        return [*lines, f"fits {plan['gpu']} ({plan['memory_gb']:g} GB)"]
    lines.append(f"does not fit {plan['gpu']} ({plan['memory_gb']:g} GB)")
    if not plan["changes"]:
        return [*lines, "no setting makes it fit: use more GPUs, shorter rows, or a smaller model"]
    return [*lines, *(f"  fits with {change}" for change in plan["changes"][:4])]


def check_memory(model: Model, training: Training, rows: Rows, processes: Processes) -> None:
    """Raise if a run cannot fit into memory, before its first step.

    Raises:
        UserError: the estimate is far above the memory of the device.
    """
    config = load_config(model)
    limit = _device_memory(processes.device)
    bytes_each = 2 if training.adapter.kind != "none" or training.offload else 16
    if training.master_weights == "bf16" or training.step_in_backward:
        bytes_each = min(bytes_each, 10)
    if limit is None or bytes_each * count_parameters(config).total / processes.world < WORTH_A_LOOK * limit:
        return
    setup = _setup_here(training, rows, processes)
    try:
        total = estimate_memory(measure_shape(config, setup), setup)["total"]
    except UnknownShapeError:
        return
    if total > REFUSE_ABOVE * limit:
        raise UserError(
            f"training would take about {total / 1e9:.1f} GB in each process",
            where=f"this device has {limit / 1e9:.1f} GB",
            remedy=_remedy(config, setup, limit * USABLE),
        )


def explain_out_of_memory(
    error: BaseException, model: Model, training: Training, rows: Rows, processes: Processes
) -> UserError | None:
    """One message with the settings that would help; None if the error is not about memory."""
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
        return None
    limit = _device_memory(processes.device)
    remedy = "lower training.micro_batch_rows, or set training.activation_checkpointing=full"
    if limit is not None:
        with contextlib.suppress(UnknownShapeError):
            remedy = _remedy(load_config(model), _setup_here(training, rows, processes), limit * USABLE)
    first_line = (str(error).splitlines() or ["out of memory"])[0]
    return UserError(f"out of memory: {first_line}", where=str(processes.device), remedy=remedy)


def _setup_here(training: Training, rows: Rows, processes: Processes) -> Setup:
    device: Literal["cpu", "cuda"] = "cuda" if processes.device.type == "cuda" else "cpu"
    return Setup.of(
        training,
        rows,
        device=device,
        world=processes.world,
        local_world=processes.mesh.size(-1),
        bf16=compute_dtype(training, processes.device) == torch.bfloat16,
    )


def _device_memory(device: torch.device) -> float | None:
    """Bytes of memory of the GPU, or of this machine; None if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    gib = describe_machine()["memory_gib"]
    group = Path("/sys/fs/cgroup/memory.max")  # a container may have less
    limits = [] if gib is None else [gib * 2**30]
    if group.exists() and (text := group.read_text().strip()).isdecimal():
        limits.append(float(text))
    return min(limits, default=None)


def _remedy(config: Any, setup: Setup, limit: float) -> str:
    changes = changes_that_fit(config, setup, limit)
    if not changes:
        return "no setting makes it fit: use more processes, shorter rows, or a smaller model"
    return "set " + "; or ".join(str(change) for change in changes[:3])
