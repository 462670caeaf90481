"""What a stage will take from each bucket of a token store, and which buckets will run out, before it starts."""

from typing import NamedTuple

from reprise.mixture.apportion import apportion
from reprise.mixture.buckets import OpenBucket, first_shares, open_buckets
from reprise.mixture.shares import Shares
from reprise.recipe import Recipe
from reprise.tokens.store import TokenStore


class Supply(NamedTuple):
    """Forecast of one bucket in one stage, under the stage's initial shares."""

    stage: int
    """Counted from 1."""
    entry: str
    """Entry of the stage's mixture: a language, or `synthetic`."""
    source: str
    topic: str | None
    """None if the stage does not split the source."""
    tokens: int
    """Tokens taken in this stage, the shares of exhausted siblings included; a stage's buckets sum to its tokens."""
    available_tokens: int
    """Training tokens of its documents, without those that the curriculum cuts."""
    epochs: float
    """Passes over `available_tokens` at the end of the stage, including earlier stages that the bucket continues."""
    runs_out_after: int | None
    """Tokens of the stage after which the bucket has been read `max_epochs` times; None if it does not run out."""
    answer_tokens: int | None
    """Expected tokens of answers among those taken; None if there are no conversations."""
    text_bytes: int | None
    """Expected UTF-8 bytes of text in the tokens taken; None if there are conversations."""


class Segment(NamedTuple):
    """A part of a stage in which the shares stay the same."""

    stage: int
    start: int
    """First token, counted from the beginning of the stage."""
    stop: int
    shares: dict[str, float]
    """Path of a bucket, such as `zh/web/Others` -> share of the stage."""


class Forecast(NamedTuple):
    """Supply and segments of all stages."""

    supplies: list[Supply]
    segments: list[Segment]
    warnings: list[str]


def forecast(recipe: Recipe, store: TokenStore) -> Forecast:
    """Divide the tokens of each stage among the buckets of the store.

    Policies change shares by measured losses, which cannot be predicted; the forecast keeps the shares constant.

    Raises:
        UserError: a source with a share has no documents, or a curriculum needs perplexities that are not there.
    """
    result = Forecast([], [], [])
    read: dict[str, float] = {}
    inherited: dict[str, float] | None = None
    for index, stage in enumerate(recipe.stages):
        opened = open_buckets(store, stage, recipe.rows, recipe.seed)
        shares = first_shares(opened, stage, inherited)
        carried = read if stage.documents == "carry" else {}
        before = [carried.get(one.identity, 0.0) for one in opened]
        taken, ran_out = _divide(index + 1, stage.tokens, opened, before, shares, result.segments)
        for one, old, tokens in zip(opened, before, taken, strict=True):
            read[one.identity] = old + tokens
        exact_tokens = apportion(round(sum(taken)), taken) if any(taken) else [0] * len(opened)
        for one, old, tokens in zip(opened, before, exact_tokens, strict=True):
            epochs = (old + tokens) / one.epoch_tokens
            path = one.bucket.path
            share = one.documents.answer_share
            answers = None if share is None else round(tokens * share)
            rate = one.documents.bytes_per_token
            supply = Supply(
                index + 1, *one.bucket, tokens, one.epoch_tokens, epochs, ran_out.get(path), answers,
                text_bytes=None if rate is None else round(tokens * rate),
            )  # fmt: skip
            result.supplies.append(supply)
        _warn(index, recipe, opened, sum(exact_tokens), ran_out, result.warnings)
        inherited = shares.shares
    return result


def _divide(
    stage: int,
    total: int,
    opened: list[OpenBucket],
    before: list[float],
    tree: Shares,
    segments: list[Segment],
) -> tuple[list[float], dict[str, int]]:
    """Tokens taken from each bucket, and path -> tokens of the stage after which that bucket runs out."""
    left = [one.limit_tokens - old for one, old in zip(opened, before, strict=True)]
    taken = [0.0] * len(opened)
    paths = [one.bucket.path for one in opened]
    ended = {path for path, rest in zip(paths, left, strict=True) if rest <= 0}
    ran_out = dict.fromkeys(ended, 0)
    at = 0.0
    while at < total:
        shares = tree.of_buckets(frozenset(ended))
        lasts = [rest / share for rest, share in zip(left, shares, strict=True) if share > 0.0]
        if not lasts:
            break
        step = min(min(lasts), total - at)
        segments.append(Segment(stage, round(at), round(at + step), dict(zip(paths, shares, strict=True))))
        at += step
        for i, share in enumerate(shares):
            taken[i] += share * step
            left[i] -= share * step
            if share > 0.0 and left[i] <= 1e-6 * opened[i].limit_tokens and at < total:
                ended.add(paths[i])
                ran_out[paths[i]] = round(at)
    return taken, ran_out


def _warn(
    index: int, recipe: Recipe, opened: list[OpenBucket], tokens: int, ran_out: dict[str, int], warnings: list[str]
) -> None:
    stage = recipe.stages[index]
    where = f"stage {index + 1}"
    for path, after in ran_out.items():
        warnings.append(
            f"{where}: {path} will have been read {stage.max_epochs:g} times after {after:,} of {stage.tokens:,} "
            "tokens; then its share goes to its siblings"
        )
    if tokens < stage.tokens:
        warnings.append(
            f"{where}: its documents give only {tokens:,} of {stage.tokens:,} tokens in {stage.max_epochs:g} epochs; "
            "training will refuse to start"
        )
    buckets = {tuple(one.bucket) for one in opened}
    for name, entry in stage.mixture.items():
        topics = recipe.documents.topics.list_of(entry.language)
        for source in entry.sources:
            split = source in stage.topics.sources and any(key[:2] == (name, source) and key[2] for key in buckets)
            missing = [topic for topic in topics if split and (name, source, topic) not in buckets]
            if missing:
                warnings.append(
                    f"{where}: {name}/{source} has no text on {'; '.join(missing)}: the other topics get more"
                )
