"""Cost of the measurements on held-out text: validations while training, and the evaluation's bits per byte."""

import numpy as np
import numpy.typing as npt

from reprise.plan.records import MeasuringCost
from reprise.recipe import Recipe
from reprise.tokens.store import Bucket, TokenStore


def plan_measuring(recipe: Recipe, store: TokenStore, training_flops_per_token: float | None) -> MeasuringCost:
    """Tokens in the forward passes of all validations and of the evaluation, and their FLOPs.

    A forward pass is a third of the cost of training. Benchmarks and samples are not counted, as the length of their
    answers is not known.

    Args:
        recipe: the settings.
        store: the tokenized text.
        training_flops_per_token: FLOPs of the forward and backward passes of one token; None if not known.
    """
    evaluation, validation = recipe.evaluation, recipe.training.validation
    models = count_models(recipe)
    in_one_validation = evaluated = 0.0
    for bucket in store.valid.values():
        in_one_validation += min(bucket.num_tokens, validation.max_tokens)
        lengths = np.diff(bucket.offsets).astype(np.float64)
        lengths *= measured_bytes(bucket, evaluation.document_bytes) / np.maximum(1, np.asarray(bucket.num_bytes))
        evaluated += tokens_in_windows(lengths, evaluation.max_length, evaluation.stride).sum()
    every = validation.every_tokens
    validations = sum(2 + (stage.tokens // every if every else 0) for stage in recipe.stages)
    tokens = models * evaluated + validations * in_one_validation
    return {
        "validations": validations,
        "validation_tokens": round(validations * in_one_validation),
        "models": models,
        "evaluation_tokens": round(models * evaluated),
        "flops": None if training_flops_per_token is None else training_flops_per_token / 3 * tokens,
    }


def count_models(recipe: Recipe) -> int:
    """Models whose bits per byte the evaluation measures: base, kept checkpoints, ends of stages, and merges."""
    evaluation, keep = recipe.evaluation, recipe.training.checkpoints.keep_every_tokens
    if evaluation.backend.kind != "transformers":
        return 2
    kept = sum(stage.tokens // keep for stage in recipe.stages) if keep else 0
    chat = evaluation.chat_merge.factors if evaluation.chat_merge is not None else []
    return 1 + kept + len(recipe.stages) + len(evaluation.merge_factors) + len(chat)


def measured_bytes(bucket: Bucket, document_bytes: int) -> npt.NDArray[np.float64]:
    """Bytes of each held-out document that are measured, float64[documents].

    Args:
        bucket: the documents.
        document_bytes: `evaluation.document_bytes`, which does not apply to conversations.
    """
    num_bytes = np.asarray(bucket.num_bytes, dtype=np.float64)
    return np.minimum(num_bytes, document_bytes) if document_bytes and not bucket.num_conversations else num_bytes


def tokens_in_windows(lengths: npt.NDArray[np.float64], max_length: int, stride: int) -> npt.NDArray[np.float64]:
    """Tokens that the model reads of documents of these lengths, float64[n]: windows of a long one overlap."""
    overlaps = np.ceil(np.maximum(0.0, lengths - max_length) / stride)
    tokens: npt.NDArray[np.float64] = lengths + overlaps * (max_length - stride)
    return tokens
