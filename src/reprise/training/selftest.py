"""`reprise selftest`: train the user's model for some steps with the trainer, and again with a plain PyTorch loop.

The plain loop shares only rows and learning rates with the trainer: transformers loads the model and computes all
logits with eager attention, and loss, clipping and AdamW are torch's own. Both loops compute in float32 on the same
device.
"""

import gc
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.mixture.batch import Batch
from reprise.mixture.sampler import Sampler
from reprise.model.loading import locate_model
from reprise.recipe import Recipe
from reprise.recipe.groups import Groups
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Guards, Training
from reprise.tokens.store import TokenStore
from reprise.training.parallel import Processes, open_processes
from reprise.training.signals import catch_stop
from reprise.training.stage import build
from reprise.workspace import Work

LIMITS = {"loss": 1e-4, "grad_norm": 1e-3, "weights": 1e-3}
"""Maximum relative differences; float32 rounding causes about 1e-6 after 10 steps."""

NORM_STEPS = 10
"""Steps whose gradient norms are judged. Rounding errors accumulate, and the norm is most sensitive to them: on
SmolLM2-135M it differed by up to 4e-6 in 8 steps and 2e-3 in 30, the losses by 9e-6 and the weights by 5e-6."""


class Rounding(TypedDict):
    """Differences between two plain loops by rounding alone; one takes rows one by one, in reverse order."""

    loss: float
    grad_norm_all_steps: float
    weights: float
    weight: str


class SelftestResult(TypedDict):
    """Differences between the two loops."""

    steps: int
    batch_rows: int
    seq_len: int
    device: str
    loss: float
    """Maximum relative difference of the loss."""
    grad_norm: float
    """Maximum relative difference of the gradient norm in the first NORM_STEPS steps."""
    grad_norm_all_steps: float
    """Maximum relative difference of the gradient norm in all steps; reported, not judged."""
    weights: float
    """Maximum over the weights after the last step: norm of the difference / norm of the weight."""
    weight: str
    """The weight with the largest difference."""
    movement: float
    """Norm of all differences / norm of the change of the weights in training."""
    first_loss: float
    last_loss: float
    limits: dict[str, float]
    passed: bool
    rounding: Rounding | None
    """Differences by rounding alone; null if not measured."""


class _Trace(NamedTuple):
    losses: list[float]
    norms: list[float]
    rates: list[float]
    weights: dict[str, Tensor]


def selftest(
    recipe: Recipe, *, steps: int = 30, batch_rows: int = 4, seq_len: int = 256, measure_rounding: bool = False
) -> SelftestResult:
    """Train twice from the base model and compare.

    Both trainings use the settings of the recipe's first training stage in float32, except for the arguments below, and
    without validations, guards and weight averages.

    Args:
        recipe: recipe with the model, token store, mixture, packing and optimizer.
        steps: optimizer steps.
        batch_rows: rows of a batch, at most those of the recipe.
        seq_len: tokens of a row, at most those of the recipe.
        measure_rounding: also run the plain loop with another order of its sums.

    Raises:
        UserError: there is no token store yet, or the recipe's settings cannot be trained with.
    """
    store = TokenStore.open(Path(recipe.workspace) / "tokenize")
    rows = recipe.rows.model_copy(update={"seq_len": min(seq_len, recipe.rows.seq_len)})
    training = _settings(recipe.training, batch_rows, rows)
    tokens = steps * training.batch_rows * rows.seq_len
    schedule = recipe.stages[0].schedule
    warmup = {"warmup_tokens": min(schedule.warmup_tokens, tokens // 4), "initial_lr": schedule.peak_lr / 10}
    decay = {"decay_tokens": min(schedule.decay_tokens, tokens // 4)}
    stage = recipe.stages[0].model_copy(
        update={"tokens": tokens, "schedule": schedule.model_copy(update=warmup | decay), "trains": "all"}
    )
    with open_processes(training) as processes:
        if processes.world > 1:
            raise UserError("the self-test compares one process with one process", remedy="start it without torchrun")
        ours = _by_the_trainer(recipe, stage, rows, training, processes)
        gc.collect()

        def plain_loop(*, each_row: bool) -> tuple[_Trace, float]:
            sampler = Sampler(store, stage, rows, recipe.seed)
            batches = (sampler.next_batch(training.batch_rows) for _ in ours.rates)
            return _by_a_plain_loop(recipe, training, batches, ours.rates, processes.device, each_row=each_row)

        plain, moved = plain_loop(each_row=False)
        result = _compare(ours, plain, moved, training.batch_rows, rows.seq_len, str(processes.device))
        if measure_rounding:
            result["rounding"] = _rounding(plain_loop(each_row=True)[0], plain)
    return result


def _settings(training: Training, batch_rows: int, rows: Rows) -> Training:
    size = min(batch_rows, training.batch_rows)
    return training.model_copy(
        update={
            "batch_rows": size,
            "micro_batch_rows": 1 if size % training.micro_batch_rows else training.micro_batch_rows,
            "precision": "float32",
            "adapter": type(training.adapter)(),
            "guards": Guards(spike="off", retention="off"),
            "validation": training.validation.model_copy(update={"every_tokens": 0, "max_tokens": rows.seq_len}),
            "checkpoints": training.checkpoints.model_copy(update={"every_tokens": 0}),
            "averaging": type(training.averaging)(),
            "benchmarks_every_tokens": 0,
            "trackers": [],
            "log_every_steps": 1,
        }
    )


def _by_the_trainer(recipe: Recipe, stage: Stage, rows: Rows, training: Training, processes: Processes) -> _Trace:
    with tempfile.TemporaryDirectory(prefix="reprise-selftest-") as folder, catch_stop() as stop:
        output = Path(folder, "train-1.partial")
        output.mkdir()
        inputs = {"tokenize": Path(recipe.workspace) / "tokenize"}
        trainer = build(
            Work(output=output, inputs=inputs, cache=Path(folder, "cache")), processes, stop, stage=stage,
            stage_index=0, rows=rows, training=training, model=recipe.start_model(), seed=recipe.seed, kept=Groups(),
            window=(recipe.evaluation.max_length, recipe.evaluation.stride),
        )  # fmt: skip
        while not trainer.sampler.finished:
            trainer.step()
        if trainer.metrics is not None:
            trainer.metrics.close()
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if event["kind"] == "step"]
        weights = {name: value.detach().cpu() for name, value in trainer.network.weights.model.named_parameters()}
    losses, norms, rates = ([float(event[name]) for event in events] for name in ("loss", "grad_norm", "lr"))
    return _Trace(losses, norms, rates, weights)


def _by_a_plain_loop(
    recipe: Recipe,
    training: Training,
    batches: Iterator[Batch],
    rates: Sequence[float],
    device: torch.device,
    *,
    each_row: bool,
) -> tuple[_Trace, float]:
    """Train the same steps with a plain PyTorch loop.

    Args:
        recipe: recipe with the model.
        training: settings of the optimizer.
        batches: the batch of each step.
        rates: learning rate of each step.
        device: device to compute on.
        each_row: take the rows of a batch one by one in reverse order, which only changes the order of sums.

    Returns:
        The trace of the training, and the norm of the change of the weights.
    """
    start_model = recipe.start_model()
    model: Any = AutoModelForCausalLM.from_pretrained(
        locate_model(start_model),
        revision=start_model.revision,
        trust_remote_code=start_model.trust_remote_code,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    model = model.to(device)
    model.train()
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # EOS may be the padding token, and must be trained
    start = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    settings = training.optimizer
    optimizer = torch.optim.AdamW(
        _groups(model, settings.weight_decay), lr=0.0, betas=settings.betas, eps=settings.eps, foreach=False
    )
    losses, norms = [], []
    for batch, rate in zip(batches, rates, strict=True):
        targets = torch.from_numpy(batch.labels.copy()).to(device)[:, 1:]
        inputs, num_targets, total = _inputs(batch, device), (targets != -100).sum(), 0.0
        parts = [slice(i, i + 1) for i in reversed(range(len(targets)))] if each_row else [slice(None)]
        for part in parts:
            logits = model(**{name: value[part] for name, value in inputs.items()}).logits[:, :-1].float()
            loss: Any = nn.functional.cross_entropy(
                logits.flatten(0, 1), targets[part].flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / num_targets).backward()
            total += float(loss.detach() / num_targets)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm, foreach=False)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
    moved = sum(float((weights[name] - start[name]).double().square().sum()) for name in weights) ** 0.5
    return _Trace(losses, norms, list(rates), weights), moved


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices except for embeddings, as described in docs/order.md."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decays = {name: value.dim() >= 2 and id(value) not in tables for name, value in model.named_parameters()}
    return [
        {"params": [value for name, value in model.named_parameters() if decays[name]], "weight_decay": weight_decay},
        {"params": [value for name, value in model.named_parameters() if not decays[name]], "weight_decay": 0.0},
    ]


def _inputs(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Token ids; if documents do not see each other, also a mask of all pairs of positions, and position ids."""
    inputs = {"input_ids": torch.from_numpy(batch.ids.copy())}
    if batch.document_mask:
        documents = torch.from_numpy(batch.documents.copy())
        sees = documents[:, :, None] == documents[:, None, :]
        sees &= torch.ones(sees.shape[1:], dtype=torch.bool).tril()
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        inputs |= {"attention_mask": mask[:, None], "position_ids": torch.from_numpy(batch.position_ids.copy())}
    return {name: value.to(device) for name, value in inputs.items()}


def _compare(ours: _Trace, plain: _Trace, moved: float, batch_rows: int, seq_len: int, device: str) -> SelftestResult:
    worst, difference, all_differences = _weight_differences(ours, plain)
    measured = {
        "loss": _worst(ours.losses, plain.losses),
        "grad_norm": _worst(ours.norms[:NORM_STEPS], plain.norms[:NORM_STEPS]),
        "weights": difference,
    }
    return {
        "steps": len(plain.losses),
        "batch_rows": batch_rows,
        "seq_len": seq_len,
        "device": device,
        "loss": measured["loss"],
        "grad_norm": measured["grad_norm"],
        "grad_norm_all_steps": _worst(ours.norms, plain.norms),
        "weights": measured["weights"],
        "weight": worst,
        "movement": all_differences / moved,
        "first_loss": plain.losses[0],
        "last_loss": plain.losses[-1],
        "limits": LIMITS,
        "passed": all(measured[name] <= limit for name, limit in LIMITS.items()),
        "rounding": None,
    }


def _rounding(other: _Trace, plain: _Trace) -> Rounding:
    worst, difference, _ = _weight_differences(other, plain)
    return {
        "loss": _worst(other.losses, plain.losses),
        "grad_norm_all_steps": _worst(other.norms, plain.norms),
        "weights": difference,
        "weight": worst,
    }


def _weight_differences(ours: _Trace, plain: _Trace) -> tuple[str, float, float]:
    """The weight with the largest relative difference, that difference, and the norm of all differences."""
    differences = {name: (ours.weights[name] - value).double().norm() for name, value in plain.weights.items()}
    relative = {name: float(one / plain.weights[name].double().norm()) for name, one in differences.items()}
    worst = max(relative, key=relative.__getitem__)
    return worst, relative[worst], float(torch.stack(list(differences.values())).norm())


def _worst(ours: Sequence[float], plain: Sequence[float]) -> float:
    return max(abs(one - other) / abs(other) for one, other in zip(ours, plain, strict=True))
