"""`reprise study microanneal`: is a source worth adding? Short annealing runs with it and without it, paired by seed.

A grid of runs like any other (`study.py`). The learning rate of the varied stage falls to 0, so that few tokens are
enough to show the effect of the text (the microanneals of OLMo 2, arXiv 2501.00656). Both variants train on equally
many tokens; the candidate replaces part of the other sources.
"""

import json
from typing import Annotated

from pydantic import Field

from reprise.errors import UserError
from reprise.recipe import Recipe, load_recipe
from reprise.recipe.fields import AnyPath, Count, FolderPath, Settings
from reprise.study import Study


class Microanneal(Settings):
    """Settings of a microanneal."""

    recipe: AnyPath
    """Recipe whose mixture has the candidate as a source, with any share."""
    workspace: FolderPath
    """Folder of the runs."""
    source: str
    """The candidate: ENTRY/SOURCE of the mixture."""
    stage: Annotated[int, Field(ge=0)] = 0
    """Training stage to anneal, counted from 0; the runs end with it."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the candidate in its entry, in the variant with it (half, as in OLMo 2's microanneals)."""
    tokens: Count | None = None
    """Tokens of the stage; null: as in the recipe."""
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1)
    """One run with the candidate and one without it per seed."""


def plan_microanneal(settings: Microanneal) -> Study:
    """Make a study with the variants `without` (the baseline) and `with`.

    Raises:
        UserError: the mixture has no such source, or it is the only source of its entry.
    """
    recipe = load_recipe(settings.recipe)
    entry, source = _candidate(settings, recipe)
    stage = recipe.stages[settings.stage]
    tokens = settings.tokens or stage.tokens
    rest = {name: share for name, share in stage.mixture[entry].sources.items() if name != source}
    prefix = f"stages.{settings.stage}"
    annealed = [
        f"stages={json.dumps([one.model_dump(mode='json') for one in recipe.stages[: settings.stage + 1]])}",
        f"{prefix}.tokens={tokens}",
        f"{prefix}.schedule.kind=wsd",
        f"{prefix}.schedule.final_lr=0.0",
        f"{prefix}.schedule.warmup_tokens=0",
        f"{prefix}.schedule.decay_tokens={tokens}",
    ]

    def sources(share: float) -> str:
        total = sum(rest.values()) or 1.0
        shares = {name: round((1 - share) * (part / total if total else 1), 9) for name, part in rest.items()}
        return f"{prefix}.mixture.{entry}.sources={json.dumps(shares | {source: round(1 - sum(shares.values()), 9)})}"

    languages = dict.fromkeys(one.language for one in stage.mixture.values())
    return Study(
        name=f"microanneal of {settings.source}",
        question=f"Is {settings.source} worth adding: {settings.share:.0%} of {entry} for {tokens:,} tokens?",
        recipe=settings.recipe,
        workspace=settings.workspace,
        baseline="without",
        variants={"without": [*annealed, sources(0.0)], "with": [*annealed, sources(settings.share)]},
        seeds=settings.seeds,
        measures=[
            *(f"bits_per_byte/{language}" for language in languages),
            *(f"benchmark/{name}" for name in recipe.evaluation.benchmarks),
        ],
    )


def _candidate(settings: Microanneal, recipe: Recipe) -> tuple[str, str]:
    """Entry and source of the candidate."""
    if settings.stage >= len(recipe.stages):
        raise UserError(f"the recipe has {len(recipe.stages)} stages", where=f"stage={settings.stage}")
    mixture = recipe.stages[settings.stage].mixture
    entry, _, source = settings.source.partition("/")
    if entry not in mixture or source not in mixture[entry].sources:
        paths = [f"{name}/{one}" for name, given in mixture.items() for one in given.sources]
        raise UserError(
            f"the mixture has no source {settings.source!r}",
            where=f"{settings.recipe}: stages.{settings.stage}.mixture",
            remedy=f"add it there (a share of 0 will do), or name one of {', '.join(paths)}",
        )
    if len(mixture[entry].sources) < 2:
        raise UserError(
            f"{settings.source} is the only source of its entry, so the control has nothing to replace it with",
            where=f"{settings.recipe}: stages.{settings.stage}.mixture.{entry}.sources",
            remedy="add another source beside it",
        )
    return entry, source
