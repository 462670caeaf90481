"""Settings that make training fit a device, for `reprise plan` and for the message when memory runs out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import combinations
from typing import Any

from reprise.recipe.training import Adapter
from reprise.training.memory_estimate import Setup, Shape, estimate_memory, measure_shape


@dataclass(frozen=True)
class Change:
    """Settings that make training fit."""

    settings: dict[str, str | int | bool]
    """Setting of the recipe -> value."""
    total: int
    """Peak bytes per process with these settings."""

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{settings}: {self.total / 1e9:.1f} GB"


@dataclass(frozen=True)
class _Option:
    """One setting that reduces memory."""

    settings: dict[str, str | int | bool]
    fields: dict[str, Any]
    """Field of `Setup` -> its new value."""
    group: str
    """Group of alternatives, of which only one can be chosen."""


def changes_that_fit(config: Any, setup: Setup, limit: float) -> list[Change]:
    """The smallest changes, each sufficient by itself, that bring the peak under a limit in bytes; cheapest first.

    Changes that do not affect the result come first, then bfloat16 weights, an adapter, and an adapter on 4-bit
    weights.
    """
    shapes: dict[Any, Shape] = {}
    fitting: list[Change] = []
    for settings, changed in _alternatives(setup):
        if any(change.settings.items() <= settings.items() for change in fitting):
            continue
        measured = (changed.micro_batch_rows, changed.adapter.model_dump_json())
        if measured not in shapes:
            shapes[measured] = measure_shape(config, changed)
        total = estimate_memory(shapes[measured], changed)["total"]
        if total <= limit:
            fitting.append(Change(settings, total))
    return fitting


def _alternatives(setup: Setup) -> Iterator[tuple[dict[str, str | int | bool], Setup]]:
    """Alternative setups in order of cost: exact ones first; in each group one change, then several."""
    exact = _exact_options(setup)
    for other in ([], *([option] for option in _other_options(setup))):
        options = [*exact, *other]
        for size in range(1, len(options) + 1):
            for chosen in combinations(options, size):
                if (other and other[0] not in chosen) or len({option.group for option in chosen}) < size:
                    continue
                settings = {key: value for option in chosen for key, value in option.settings.items()}
                fields = {key: value for option in chosen for key, value in option.fields.items()}
                yield settings, replace(setup, **fields)


def _exact_options(setup: Setup) -> list[_Option]:
    """Options that change the result only by rounding."""
    options = []
    if setup.gradient_accumulation == "whole":
        options.append(
            _Option({"training.gradient_accumulation": "sharded"}, {"gradient_accumulation": "sharded"}, "gradients")
        )
    if setup.micro_batch_rows > 1 and not setup.step_in_backward:
        fields = {"micro_batch_rows": 1, "micro_batches": setup.micro_batches * setup.micro_batch_rows}
        options.append(_Option({"training.micro_batch_rows": 1}, fields, "rows"))
    if setup.world > 1 and setup.sharding != "full":
        options.append(_Option({"training.sharding": "full"}, {"sharding": "full"}, "sharding"))
    modes = ("none", "selective", "full")
    options += [
        _Option({"training.activation_checkpointing": mode}, {"activation_checkpointing": mode}, "checkpointing")
        for mode in modes[modes.index(setup.activation_checkpointing) + 1 :]
    ]
    return options


def _other_options(setup: Setup) -> list[_Option]:
    """Options that train different weights, or much slower; the smallest change first."""
    options = []
    if setup.adapter.kind == "none":
        if setup.optimizer == "adamw" and setup.moments == "float32" and find_spec("bitsandbytes") is not None:
            options.append(_Option({"training.optimizer.moments": "8bit"}, {"moments": "8bit"}, "moments"))
        if setup.master_weights == "float32" and setup.compute_bytes == 2 and setup.optimizer == "adamw":
            options.append(_Option({"training.master_weights": "bf16"}, {"master_weights": "bf16"}, "weights"))
        if setup.device == "cuda" and setup.is_sharded and not setup.offload:
            options.append(_Option({"training.offload": True}, {"offload": True}, "weights"))
        can_adapt = find_spec("peft") is not None and not setup.step_in_backward
        if can_adapt and setup.optimizer == "adamw" and setup.master_weights == "float32":
            lora = Adapter(kind="lora")
            options.append(_Option({"training.adapter.kind": "lora"}, {"adapter": lora}, "weights"))
            if setup.device == "cuda" and setup.world == 1:
                four_bit = Adapter(kind="lora", base="nf4")
                named: dict[str, str | int | bool] = {"training.adapter.kind": "lora", "training.adapter.base": "nf4"}
                options.append(_Option(named, {"adapter": four_bit}, "weights"))
    elif setup.adapter.base == "compute" and setup.device == "cuda" and setup.world == 1:
        four_bit = setup.adapter.model_copy(update={"base": "nf4"})
        options.append(_Option({"training.adapter.base": "nf4"}, {"adapter": four_bit}, "weights"))
    return options
