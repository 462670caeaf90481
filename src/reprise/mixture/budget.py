"""How many tokens of each bucket a stage will train on, before it starts."""

from typing import NamedTuple

from reprise.mixture.apportion import apportion
from reprise.recipe import Recipe


class Budget(NamedTuple):
    """Tokens that a stage takes from a bucket under its initial shares."""

    stage: int
    """Counted from 1."""
    entry: str
    """Entry of the stage's mixture: a language, or `synthetic`."""
    source: str
    topic: str | None
    """None if the source is not split by topic, or if its topic shares are unknown until the token store exists."""
    tokens: int


def budgets(recipe: Recipe) -> list[Budget]:
    """Planned tokens by stage, entry, source and topic; exact integers that sum to the tokens of each stage.

    Tokens are divided level by level by largest remainders, so that each level is exact by itself.
    """
    planned = []
    for index, stage in enumerate(recipe.stages):
        names = list(stage.mixture)
        of_entries = apportion(stage.tokens, [part.share for part in stage.mixture.values()])
        for name, entry_tokens in zip(names, of_entries, strict=True):
            part = stage.mixture[name]
            of_sources = apportion(entry_tokens, list(part.sources.values()))
            for source, source_tokens in zip(part.sources, of_sources, strict=True):
                topics = planned_topics(recipe, index, name, source)
                shares = apportion(source_tokens, list(topics.values()))
                planned += [
                    Budget(index + 1, name, source, topic, tokens) for topic, tokens in zip(topics, shares, strict=True)
                ]
    return planned


def planned_topics(recipe: Recipe, stage_index: int, name: str, source: str) -> dict[str | None, float]:
    """Topic -> initial share in a stage, if the recipe alone determines it; else {None: 1}.

    Args:
        stage_index: counted from 0.
        name: entry of the stage's mixture.
    """
    stage = recipe.stages[stage_index]
    topics = recipe.documents.topics.list_of(stage.mixture[name].language)
    if source not in stage.topics.sources or not topics or stage.topics.initial == "available":
        return {None: 1.0}
    if stage.topics.initial == "inherit" and name in recipe.stages[stage_index - 1].mixture:
        return planned_topics(recipe, stage_index - 1, name, source)
    return dict.fromkeys(topics, 1.0)
