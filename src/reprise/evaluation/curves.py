"""Forgetting over checkpoints, and gain against retention: one point per checkpoint and per merge factor.

A merge factor w stands for the model (1 - w) * base + w * trained, weight by weight: w = 0 is the base, 1 the trained
model. Merging back often keeps most of the gain at a fraction of the forgetting, so the plane shows where.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.evaluation.evaluated import EvaluatedModel
from reprise.evaluation.heldout import Text, group_texts, measure_bits
from reprise.model.loading import load_model, load_tokenizer, save_model
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model


@dataclass(frozen=True)
class Point:
    """One model on the way from the base to the end."""

    name: str
    kind: str
    """`base`, `checkpoint` or `merge`."""
    tokens: int | None
    """Trained until then; None for a merge."""
    factor: float | None
    """Merge factor; None for a checkpoint."""
    bits_per_byte: dict[str, float]
    """Language -> held-out bits per byte."""


def forgetting_curve(
    base: Model,
    checkpoints: Sequence[tuple[int, Model]],
    texts: Sequence[Text],
    evaluation: Evaluation,
    *,
    cache: Path,
    merge_factors: Sequence[float] = (),
    scratch: Path | None = None,
) -> list[Point]:
    """Measure the base, each checkpoint in the order of its tokens, and merges of the last one with the base.

    Args:
        base: the base model.
        checkpoints: (tokens, model directory) of a run, exported in Hugging Face format.
        texts: held-out documents.
        evaluation: window and number format.
        cache: folder of answers that were computed before.
        merge_factors: 0 to 1, exclusive; needs at least one checkpoint.
        scratch: folder for merged models, removed one by one; needed for merges.

    Raises:
        UserError: a merge is asked for where the two models have other weights.
    """
    points = [_measure("base", "base", 0, None, base, texts, evaluation, cache)]
    ordered = sorted(checkpoints, key=lambda pair: pair[0])
    for tokens, model in ordered:
        name = f"{tokens:,} tokens"
        points.append(_measure(name, "checkpoint", tokens, None, model, texts, evaluation, cache))
    if merge_factors and ordered and scratch is not None:
        for factor in merge_factors:
            folder = scratch / f"merge-{factor:g}"
            merge_models(base, ordered[-1][1], factor, folder)
            merged = Model(path=str(folder), trust_remote_code=base.trust_remote_code, attention=base.attention)
            points.append(_measure(f"merge {factor:g}", "merge", None, factor, merged, texts, evaluation, cache))
            shutil.rmtree(folder)
    return points


def merge_models(base: Model, trained: Model, factor: float, folder: Path) -> None:
    """Write (1 - factor) * base + factor * trained, computed in float32, in the type of the trained model.

    Raises:
        UserError: the two models have other weights.
    """
    one, two = load_model(base, torch.float32), load_model(trained, torch.float32)
    start, end = dict(one.named_parameters()), dict(two.named_parameters())
    shapes = [{name: tuple(value.shape) for name, value in side.items()} for side in (start, end)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{base.path} and {trained.path} have other weights, so they cannot be merged",
            remedy="name the model that the training began with",
        )
    with torch.no_grad():
        for name, value in end.items():
            value.lerp_(start[name], 1.0 - factor)
    save_model(two, load_tokenizer(trained), folder)


def plane(points: Sequence[Point], gained: Sequence[str], kept: Sequence[str]) -> list[dict[str, Any]]:
    """Each point as {name, kind, gain, loss}, means over languages.

    gain is the relative fall of the bits per byte of the languages that were to gain, loss the relative rise of those
    that were to be kept.
    """
    first = points[0].bits_per_byte

    def change(point: Point, languages: Sequence[str]) -> float:
        return float(np.mean([point.bits_per_byte[name] / first[name] - 1 for name in languages]))

    return [
        {"name": point.name, "kind": point.kind, "gain": -change(point, gained), "loss": change(point, kept)}
        for point in points
    ]


def _measure(
    name: str,
    kind: str,
    tokens: int | None,
    factor: float | None,
    model: Model,
    texts: Sequence[Text],
    evaluation: Evaluation,
    cache: Path,
) -> Point:
    bits = measure_bits(EvaluatedModel(model, evaluation), texts, evaluation, cache=cache, what=name)
    num_bytes = np.array([len(text.text.encode()) for text in texts], dtype=np.float64)
    totals = {
        language: float(bits[members].sum() / num_bytes[members].sum())
        for (language, source, _), members in group_texts(texts)
        if source is None
    }
    return Point(name, kind, tokens, factor, totals)
