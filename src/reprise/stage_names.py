"""The names of the stages, said once; `stages.py` says what each does."""

from reprise.recipe import Recipe

DOCUMENT_STAGES = ("read", "clean", "deduplicate", "decontaminate", "label", "score")
"""Stages that turn one document table into the next, in order."""

SYNTHESIZE, TOKENIZE, EVALUATE, REPORT = "synthesize", "tokenize", "evaluate", "report"

DROPPING_STAGES = (*(name for name in DOCUMENT_STAGES if name != "score"), SYNTHESIZE)
"""Stages that reject or drop documents, in order."""


def stage_names(recipe: Recipe) -> list[str]:
    """The stages of a run, in order, without the report."""
    synthesis = [SYNTHESIZE] if recipe.synthesis.enabled else []
    training = [f"train-{index + 1}" for index in range(len(recipe.stages))]
    return [*DOCUMENT_STAGES, *synthesis, TOKENIZE, *training, EVALUATE]
