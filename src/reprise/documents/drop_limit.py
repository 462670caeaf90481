"""Stop a stage that drops much of a language or a source, before the rest of the run is spent on what remains."""

import math
from collections.abc import Collection, Sequence
from typing import cast

from reprise.documents.part_step import BucketFlow, StepCounts
from reprise.errors import UserError
from reprise.workspace import Work

_Z = 1.645
"""Standard normal quantile. The limit is compared with a lower bound of the share (confidence 0.95), so that one
dropped document of two does not stop a run, and three of three do."""
_SHOWN = 5

_SETTINGS = {"tokenize": "model.path"}
"""Stage -> setting that decides what it drops; for the other stages it is the recipe's section of the same name."""
_RULES = {
    "chat_template": "the chat template of model.path",
    "too_short": "documents.clean.min_chars",
    "exact_duplicate": "documents.deduplicate.enabled",
    "near_duplicate": "documents.deduplicate.threshold",
    "benchmark_question": "documents.decontaminate.min_overlap",
}
"""Reason -> setting that decides it; other reasons are names of heuristics."""


def check_drop_share(
    stage: str, work: Work, max_drop_share: float, needed: Collection[tuple[str, str]] = frozenset()
) -> None:
    """Compare what a stage dropped of each language, source and split with the limit of the recipe.

    Args:
        stage: name of the stage.
        work: the finished stage; its counts contain StepCounts.
        max_drop_share: largest share of documents that may be dropped, 0 to 1.
        needed: (language, source) of the text that is trained on.

    Raises:
        UserError: a bucket lost more than that, or all of what is trained on; the message names the rules, how many
            documents each dropped, and the settings.
    """
    check_flows(stage, cast(StepCounts, work.counts).get("buckets", []), max_drop_share, needed)


def check_flows(
    stage: str,
    flows: Sequence[BucketFlow],
    max_drop_share: float,
    needed: Collection[tuple[str, str]] = frozenset(),
) -> None:
    """Like `check_drop_share`, given what a stage did to the documents of each language, source and split.

    Raises:
        UserError: see `check_drop_share`.
    """
    for flow in flows:
        pair = (flow["language"], flow["source"])
        if pair in needed and flow["split"] == "train" and flow["documents_in"] == sum(flow["dropped"].values()):
            raise UserError(
                f"the stage {stage} leaves no training document of {pair[0]}/{pair[1]}: it drops {_describe(flow)}",
                where=_SETTINGS.get(stage, f"documents.{stage}"),
                remedy=_look_at(stage, flow) + ", or take it out of the mixture",
            )
    over = [flow for flow in flows if dropped_share(flow) > max_drop_share]
    if not over:
        return
    over.sort(key=lambda flow: -sum(flow["dropped"].values()))
    lines = [_describe(flow) for flow in over[:_SHOWN]]
    if len(over) > _SHOWN:
        lines.append(f"and as much of {len(over) - _SHOWN} more")
    largest = max(sum(flow["dropped"].values()) / flow["documents_in"] for flow in over)
    allowed = math.ceil(largest * 100) / 100
    raise UserError(
        f"the stage {stage} drops {'; '.join(lines)}",
        where=f"documents.max_drop_share={max_drop_share:g}",
        remedy=f"{_look_at(stage, over[0])}, or allow it with documents.max_drop_share={allowed:g}",
    )


def _look_at(stage: str, flow: BucketFlow) -> str:
    """How to see what the rule that dropped most dropped, and the setting of that rule."""
    reason = max(flow["dropped"].items(), key=lambda item: item[1])[0]
    return (
        f"look at them with `reprise rejects RECIPE --stage {stage} --reason {reason}`; change the rule "
        f"({rule_setting(flow['language'], reason)})"
    )


def dropped_share(flow: BucketFlow) -> float:
    """Lower bound of the share of documents that the stage drops (Wilson's score interval)."""
    count, dropped = flow["documents_in"], sum(flow["dropped"].values())
    if not dropped:
        return 0.0
    share, z2 = dropped / count, _Z**2
    middle = share + z2 / (2 * count)
    return (middle - _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)


def rule_setting(language: str, reason: str) -> str:
    """The setting that decides how many documents are dropped for this reason."""
    return _RULES.get(reason, f"documents.clean.heuristics.{language}.{reason}")


def _describe(flow: BucketFlow) -> str:
    """`57 of 104 documents of ko/web to train on (55 %: max_short_lines 40, min_stop_words 17)`."""
    dropped = sum(flow["dropped"].values())
    rules = sorted(flow["dropped"].items(), key=lambda item: (-item[1], item[0]))
    listing = ", ".join(f"{reason} {count:,}" for reason, count in rules[:_SHOWN])
    purpose = "to train on" if flow["split"] == "train" else "held out"
    return (
        f"{dropped:,} of {flow['documents_in']:,} documents of {flow['language']}/{flow['source']} {purpose} "
        f"({dropped / flow['documents_in']:.0%}: {listing})"
    )
