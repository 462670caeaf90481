"""The names of the stages, defined once; `stages.py` describes what each does."""

from reprise.recipe import Recipe

DOCUMENT_STAGES = ("read", "clean", "deduplicate", "decontaminate", "label", "score")
"""Stages that turn one document table into the next."""

VOCABULARY, SYNTHESIZE, TOKENIZE, EVALUATE, REPORT = "vocabulary", "synthesize", "tokenize", "evaluate", "report"

DROPPING_STAGES = (*(name for name in DOCUMENT_STAGES if name != "score"), SYNTHESIZE, TOKENIZE)
"""Stages that reject or drop documents."""


def stage_names(recipe: Recipe) -> list[str]:
    """The stages of a run, in order, except the report."""
    documents = list(DOCUMENT_STAGES)
    if recipe.vocabulary is not None:
        documents.insert(documents.index("score"), VOCABULARY)
    synthesis = [SYNTHESIZE] if recipe.synthesis.enabled else []
    training = [f"train-{index + 1}" for index in range(len(recipe.stages))]
    return [*documents, *synthesis, TOKENIZE, *training, EVALUATE]
