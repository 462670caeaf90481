"""Synthetic tokens that a mixture needs, those that exist, and the estimated cost of the missing ones."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from reprise.generators.generator import price
from reprise.recipe.synthesis import Synthesis
from reprise.records import record
from reprise.synthesis.records import SynthesisCounts


@dataclass(frozen=True)
class Rates:
    """How many tokens a request takes and yields."""

    tokens_per_request: float
    """Tokens of kept documents per request, including requests that yield none."""
    prompt_tokens: float
    """Prompt tokens per request."""
    completion_tokens: float
    """Generated tokens per request."""
    tokens_per_second: float | None
    """Generated tokens per second; None if no run has measured it."""


@record
class Need(TypedDict):
    """Synthetic tokens that are needed, and the estimated cost of the missing ones."""

    tokens_needed: int
    """Tokens that the mixtures take from synthetic buckets."""
    tokens_there: int
    """Tokens that the token store already contains."""
    tokens_missing: int
    """tokens_needed - tokens_there, at least 0."""
    requests: int
    """Requests that would generate the missing tokens."""
    prompt_tokens: int
    """Tokens of their prompts."""
    completion_tokens: int
    """Tokens that the generator would write."""
    cost: float
    """Cost, in the currency of the recipe's prices; 0 without prices."""
    hours: float | None
    """Hours that the generator needs; null before a run has measured its speed."""
    measured: bool
    """Whether the rates were measured in a run; otherwise they are assumed."""


def estimate_need(synthesis: Synthesis, *, tokens_needed: int, tokens_there: int, stage: Path | None) -> Need:
    """Estimate the requests, tokens, cost and time that the missing synthetic tokens take.

    Args:
        synthesis: settings, for the prices and the length of answers.
        tokens_needed: tokens that the mixtures take from synthetic buckets.
        tokens_there: tokens in the synthetic buckets of the token store; 0 if there is none.
        stage: folder of a published `synthesize` stage from which rates are measured; None: they are assumed.
    """
    rates = measure_rates(stage, tokens_there) if stage is not None else None
    measured = rates is not None
    rates = rates or assume_rates(synthesis)
    missing = max(0, tokens_needed - tokens_there)
    requests = math.ceil(missing / rates.tokens_per_request)
    prompt, completion = round(requests * rates.prompt_tokens), round(requests * rates.completion_tokens)
    return {
        "tokens_needed": tokens_needed,
        "tokens_there": tokens_there,
        "tokens_missing": missing,
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": price(prompt, completion, synthesis.generator),
        "hours": completion / rates.tokens_per_second / 3600 if rates.tokens_per_second else None,
        "measured": measured,
    }


def assume_rates(synthesis: Synthesis) -> Rates:
    """Rates before any run: answers half as long as allowed, half of them kept; prompts of a passage and 300 tokens.

    These are guesses; a run with ten requests gives better rates.
    """
    completion = synthesis.generator.max_tokens / 2
    return Rates(completion / 2, 300 + synthesis.passages.max_chars / 8, completion, None)


def measure_rates(stage: Path, tokens_there: int) -> Rates | None:
    """Measure the rates of a published stage; None if it does not exist or kept nothing.

    Args:
        stage: folder of the stage.
        tokens_there: tokens of its documents in the token store; 0 if they are not counted yet.
    """
    try:
        manifest = json.loads((stage / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    counts: SynthesisCounts = manifest["counts"]
    answered = counts["requests"] - counts["failed"]
    if not (counts["documents_out"] and counts["completion_tokens"]):
        return None
    completion = counts["completion_tokens"] / answered
    kept = counts["documents_out"] / counts["documents_in"]
    per_request = tokens_there / counts["documents_in"] if tokens_there else completion * kept
    # A run that took answers from the journal does not show how long it takes to generate them.
    speed = None if counts["from_journal"] else counts["completion_tokens"] / max(manifest["seconds"], 1e-3)
    return Rates(per_request, counts["prompt_tokens"] / answered, completion, speed)
