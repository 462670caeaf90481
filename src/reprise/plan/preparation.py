"""What the stages from `read` to `tokenize` will take: core-hours from rates that `benchmarks/growth.py` measured."""

import json
from pathlib import Path
from typing import TypedDict, cast

from reprise.model.machine import count_cores
from reprise.plan.records import Preparation
from reprise.preflight.disk import input_bytes
from reprise.recipe import Recipe

RATES = Path(__file__).with_name("core_seconds.json")
"""Written by `python benchmarks/growth.py --rates src/reprise/plan/core_seconds.json`."""


class StageRate(TypedDict):
    """What one stage took."""

    core_seconds_per_gb: float
    """Processor seconds per 10^9 bytes of text that the run read."""
    gb_per_core: float
    """Peak memory of all processes divided by the cores."""


class Rates(TypedDict):
    """What `core_seconds.json` contains."""

    machine: str
    date: str
    documents: int
    text_gb: float
    """Text of the measured run, in 10^9 bytes of UTF-8."""
    languages: str
    stages: dict[str, StageRate]


def load_rates() -> Rates:
    """Rates that were measured on another machine."""
    return cast(Rates, json.loads(RATES.read_text(encoding="utf-8")))


def plan_preparation(recipe: Recipe) -> Preparation | None:
    """Hours and memory of the stages that prepare the text; None if its size is not known.

    Time is taken to grow with the text and to be divided by the cores. The stage `score` needs a model and is not part
    of this.
    """
    text_gb = input_bytes(recipe) / 1e9
    if not text_gb:
        return None
    rates = load_rates()
    cores = recipe.hardware.cpu_cores or count_cores()
    hours = {name: rate["core_seconds_per_gb"] * text_gb / 3600 for name, rate in rates["stages"].items()}
    return {
        "text_gb": text_gb,
        "cpu_cores": cores,
        "machine": rates["machine"],
        "date": rates["date"],
        "hours": sum(hours.values()) / cores,
        "memory_gb_per_core": max(rate["gb_per_core"] for rate in rates["stages"].values()),
        "stages": [{"stage": name, "core_hours": each, "hours": each / cores} for name, each in hours.items()],
    }
