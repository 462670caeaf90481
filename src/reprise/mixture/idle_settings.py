"""Checks for settings of a training stage that would have no effect, or not the effect that their name says."""

import math
from collections.abc import Iterator

from reprise.errors import Finding
from reprise.mixture.rules import FIRST_UPDATE
from reprise.recipe.mixture import Policy, Stage
from reprise.recipe.recipe import Recipe
from reprise.recipe.training import Averaging, Schedule, Training

MANY = 100_000
"""Number of validations above which they are not counted one by one."""


def check_idle_settings(recipe: Recipe) -> Iterator[Finding]:
    """Find schedules, policies, averages, guards and measurements that do not fit into the tokens of their stage."""
    step_tokens = recipe.training.batch_rows * recipe.rows.seq_len
    for index, stage in enumerate(recipe.stages):
        where = f"stages.{index}"
        yield from _check_schedule(where, stage)
        yield from _check_policy(where, stage, recipe.training, step_tokens)
        yield from _check_averaging(stage, recipe.training.averaging, step_tokens)
    yield from _check_measurements(recipe)


def _check_schedule(where: str, stage: Stage) -> Iterator[Finding]:
    schedule, tokens = stage.schedule, stage.tokens
    if schedule.kind == "wsd" and not schedule.decay_tokens:
        yield Finding(
            "a schedule `wsd` without decay_tokens never decays: it is `constant` under another name",
            f"{where}.schedule.decay_tokens = 0",
            f"write how many of the last tokens decay, such as {max(1, tokens // 10):,}, or kind: constant",
        )
    yield from _check_rates(where, schedule)
    decay = schedule.decay_tokens if schedule.kind == "wsd" else 0
    if schedule.warmup_tokens + decay > tokens or (schedule.warmup_tokens and schedule.warmup_tokens >= tokens):
        parts = f"warm-up ({schedule.warmup_tokens:,} tokens)" + (f" and decay ({decay:,})" if decay else "")
        yield Finding(
            f"the learning rate never reaches its peak: {parts} {'are' if decay else 'is'} not shorter than the stage "
            f"({tokens:,} tokens)",
            f"{where}.schedule.warmup_tokens = {schedule.warmup_tokens:,}",
            "shorten them, or train more tokens",
            "warning",
        )


def _check_rates(where: str, schedule: Schedule) -> Iterator[Finding]:
    """Find rates and lengths that the kind of schedule does not use, or that invert it."""
    if schedule.decay_tokens and schedule.kind != "wsd":
        yield Finding(
            f"a schedule `{schedule.kind}` does not use decay_tokens",
            f"{where}.schedule.decay_tokens = {schedule.decay_tokens:,}",
            "write kind: wsd, which decays at the end of the stage, or leave it out",
        )
    if schedule.final_lr and schedule.kind == "constant":
        yield Finding(
            "a schedule `constant` does not use final_lr",
            f"{where}.schedule.final_lr = {schedule.final_lr:g}",
            "write kind: wsd or cosine, or leave it out",
        )
    elif schedule.final_lr > schedule.peak_lr:
        yield Finding(
            f"the learning rate rises to final_lr where it should fall from the peak ({schedule.peak_lr:g})",
            f"{where}.schedule.final_lr = {schedule.final_lr:g}",
            "set it below peak_lr",
            "warning",
        )
    if schedule.warmup_tokens and schedule.initial_lr != "last" and schedule.initial_lr > schedule.peak_lr:
        yield Finding(
            f"the warm-up falls: it starts above peak_lr ({schedule.peak_lr:g})",
            f"{where}.schedule.initial_lr = {schedule.initial_lr:g}",
            "set it below peak_lr",
            "warning",
        )


def count_updates(policy: Policy, tokens: int, step_tokens: int, validate_every: int) -> int:
    """How many times a policy can change shares before the last row of a stage.

    Args:
        policy: settings of the policy.
        tokens: tokens of the stage.
        step_tokens: tokens of an optimizer step.
        validate_every: `training.validation.every_tokens`; 0: at the start and the end only.
    """
    if validate_every and tokens // validate_every > MANY:
        return MANY
    # A validation comes after the first step that reaches a multiple; the one at token 0 comes before the first row.
    due = range(validate_every, tokens, validate_every) if validate_every else ()
    at = [0, *dict.fromkeys(math.ceil(multiple / step_tokens) * step_tokens for multiple in due)]
    observed: list[int] = []
    for moment in at:
        if moment < tokens and (not observed or moment - observed[-1] >= policy.every_tokens):
            observed.append(moment)
    return max(0, len(observed) - FIRST_UPDATE[policy.name])


def _check_policy(where: str, stage: Stage, training: Training, step_tokens: int) -> Iterator[Finding]:
    policy = stage.topics.policy
    if policy.name == "static":
        return
    if not stage.topics.sources:
        yield Finding(
            f"no source is split by topic, so the policy {policy.name} has no shares to change",
            f"{where}.topics.sources = []",
            "name the sources to split, or leave the policy out",
            "warning",
        )
        return
    every = training.validation.every_tokens
    if count_updates(policy, stage.tokens, step_tokens, every) == 0:
        first = FIRST_UPDATE[policy.name] + 1
        yield Finding(
            f"the run is `static` under another name: the policy {policy.name} first acts at validation number {first} "
            "of the stage, which comes after the last row or not at all",
            f"training.validation.every_tokens = {every:,}, "
            f"{where}.topics.policy.every_tokens = {policy.every_tokens:,}, {where}.tokens = {stage.tokens:,}",
            f"validate more often, such as every {max(1, stage.tokens // 20):,} tokens, or set the policy to static",
            "warning",
        )


def _check_averaging(stage: Stage, averaging: Averaging, step_tokens: int) -> Iterator[Finding]:
    if averaging.kind == "none":
        return
    steps = math.ceil(stage.tokens / step_tokens)
    start = stage.tokens - averaging.tokens if averaging.kind == "mean" else 0
    first = max(0, start) // step_tokens + 1  # the first step that ends after the beginning of the window
    if steps // averaging.every_steps <= (first - 1) // averaging.every_steps:
        yield Finding(
            f"nothing is averaged: no step of the stage {stage.name!r} is a sample of the mean "
            f"({steps:,} steps of {step_tokens:,} tokens)",
            f"training.averaging: kind {averaging.kind}, tokens {averaging.tokens:,}, "
            f"every_steps {averaging.every_steps}",
            "lengthen the window, or sample more often",
            "warning",
        )


def _check_measurements(recipe: Recipe) -> Iterator[Finding]:
    """Find intervals that are longer than every stage."""
    training, longest = recipe.training, max(stage.tokens for stage in recipe.stages)
    intervals = {
        "training.benchmarks_every_tokens": training.benchmarks_every_tokens,
        "training.validation.every_tokens": training.validation.every_tokens,
        "training.checkpoints.keep_every_tokens": training.checkpoints.keep_every_tokens,
    }
    for name, tokens in intervals.items():
        if tokens > longest:
            yield Finding(
                f"no stage has so many tokens (the longest has {longest:,}), so it never happens",
                f"{name} = {tokens:,}",
                "shorten the interval, or set it to 0",
                "warning",
            )
    if training.checkpoints.keep_every_tokens and not training.checkpoints.every_tokens:
        yield Finding(
            "no checkpoint is saved before the end of a stage, so there is none to keep",
            f"training.checkpoints.keep_every_tokens = {training.checkpoints.keep_every_tokens:,}",
            "set training.checkpoints.every_tokens too",
            "warning",
        )
    yield from _check_retention(recipe, longest)


def _check_retention(recipe: Recipe, longest: int) -> Iterator[Finding]:
    """Find a guard that has nothing to keep, or acts too late; entries with `keep: true` count like languages."""
    where = f"training.guards.retention = {recipe.training.guards.retention}"
    if recipe.training.guards.retention not in ("stop", "raise_share"):
        return
    kept = recipe.held_out_groups().kept()
    if not (kept.named or kept.other_languages):
        yield Finding(
            "nothing has a tolerance, so the guard has nothing to keep",
            where,
            "set `keep: true` on an entry of the mixture, or evaluation.tolerance",
            "warning",
        )
    elif not 0 < recipe.training.validation.every_tokens < longest:
        yield Finding(
            "held-out text is measured at the start and the end only, so the guard acts after the last row",
            where,
            "set training.validation.every_tokens",
            "warning",
        )
