"""Two models on the same documents and questions -> rows, verdicts, and what was not tested."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reprise.evaluation.bits_per_byte import Text, TextGroup, byte_counts, group_texts
from reprise.evaluation.intervals import Estimate, bootstrap_interval, estimate_rate
from reprise.evaluation.results import METRIC_NAMES, BenchmarkRow, BitsRow, OtherMetric, Untested, Verdict
from reprise.evaluation.verdicts import Judgement, judge_all
from reprise.recipe.evaluation import INSTRUCTION_BENCHMARKS
from reprise.recipe.groups import Groups
from reprise.recipe.languages.packs import english_name


class ComparedBenchmark(NamedTuple):
    """A benchmark before and after; its verdicts are not filled in yet."""

    row: BenchmarkRow
    estimate: Estimate
    others: Mapping[str, Estimate] = {}
    """Other metric that gets a verdict -> its change."""


def compare_bits(
    texts: Sequence[Text],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    groups: Groups,
    bootstrap_samples: int = 0,
) -> list[tuple[BitsRow, Estimate]]:
    """Bits per byte of each entry, source and topic, before and after; verdicts are not filled in yet.

    Args:
        texts: the documents.
        before: float64[len(texts)], bits of each document under the base model.
        after: float64[len(texts)], bits of each document under the trained model.
        groups: which documents belong together.
        bootstrap_samples: resamples for `bootstrap_ci`; 0: none.
    """
    num_bytes = byte_counts(texts)
    _, first_copy = np.unique(np.array([text.text for text in texts], object), return_inverse=True)
    table = []
    for group in group_texts(texts, groups):
        members = group.members
        _, document = np.unique(first_copy[members], return_inverse=True)
        # Copies of a text are one observation, so they count as one document with the size of all of them.
        own_before, own_after, own_bytes = (
            np.bincount(document, column[members]).astype(np.float64) for column in (before, after, num_bytes)
        )
        estimate = estimate_rate(own_before, own_after, own_bytes)
        bootstrap = bootstrap_interval(own_before, own_after, bootstrap_samples)
        table.append((_bits_row(group, estimate, int(own_bytes.sum()), bootstrap), estimate))
    return table


def _bits_row(group: TextGroup, estimate: Estimate, num_bytes: int, bootstrap: tuple[float, float] | None) -> BitsRow:
    return {
        "path": group.path,
        "entry": group.entry,
        "language": group.language,
        "source": group.source,
        "topic": group.topic,
        "before": estimate.before,
        "after": estimate.after,
        "change": estimate.change,
        "standard_error": estimate.standard_error if math.isfinite(estimate.standard_error) else None,
        "spread": estimate.spread if estimate.problem is None else None,
        "ci": estimate.interval(),
        "bootstrap_ci": bootstrap,
        "tolerance": group.tolerance,
        "verdict": "undecided" if group.is_judged else None,
        "num_bytes": num_bytes,
        "documents": estimate.items,
    }


def judge_rows(table: Sequence[tuple[BitsRow, Estimate]], benchmarks: Sequence[ComparedBenchmark]) -> list[Verdict]:
    """Judge all rows as one family, and write the verdicts into them."""
    judged = [(row, estimate) for row, estimate in table if row["verdict"] is not None]
    scores = [score for compared in benchmarks for score in _judged_scores(compared)]
    measures = [
        *((estimate, row["tolerance"]) for row, estimate in judged),
        *((estimate, score["tolerance"]) for _, _, score, estimate in scores),
    ]
    judgements = iter(judge_all(measures))
    verdicts: list[Verdict] = []
    for row, _ in judged:
        judgement = next(judgements)
        row["verdict"] = judgement.verdict
        verdicts.append(
            {
                "measure": f"{english_name(row['path'])} bits per byte",
                "kind": "bits_per_byte",
                "path": row["path"],
                "language": row["language"],
                "before": row["before"],
                "after": row["after"],
                "change": row["change"],
                "unit": "relative",
                "better": "lower",
                "items": row["documents"],
                "ci": row["ci"],
                "judged_error": judgement.error,
                "judged_ci": judgement.ci,
                "tolerance": row["tolerance"],
                "verdict": judgement.verdict,
                "reason": judgement.reason,
            }
        )
    for question, metric, score, _ in scores:
        judgement = next(judgements)
        score["verdict"] = judgement.verdict
        verdicts.append(_benchmark_verdict(question, metric, score, judgement))
    return verdicts


def _judged_scores(
    compared: ComparedBenchmark,
) -> Iterator[tuple[BenchmarkRow, str | None, BenchmarkRow | OtherMetric, Estimate]]:
    """The score of a benchmark, then its other metrics that get a verdict, each with its name and its change."""
    row = compared.row
    yield row, None, row, compared.estimate
    for metric, estimate in compared.others.items():
        yield row, metric, row["other_metrics"][metric], estimate


def _benchmark_verdict(
    row: BenchmarkRow, metric: str | None, score: BenchmarkRow | OtherMetric, judgement: Judgement
) -> Verdict:
    name = row["benchmark"]
    return {
        "measure": name if metric is None else f"{name}: {METRIC_NAMES.get(metric, metric)}",
        "kind": "benchmark",
        "path": name if metric is None else f"{name}/{metric}",
        "language": row["language"],
        "before": score["before"],
        "after": score["after"],
        "change": score["change"],
        "unit": "difference",
        "better": "higher",
        "items": row["questions"],
        "ci": score["ci"],
        "judged_error": judgement.error,
        "judged_ci": judgement.ci,
        "tolerance": score["tolerance"],
        "verdict": judgement.verdict,
        "reason": judgement.reason,
    }


def find_untested(
    texts: Sequence[Text],
    groups: Groups,
    verdicts: Sequence[Verdict],
    absent: Mapping[str, str],
    *,
    is_assistant: bool = False,
) -> list[Untested]:
    """What a reader may expect to be tested and was not: named groups without text, benchmarks, tolerances; and
    instruction following if the base model has a chat template."""
    return [
        *_without_text(texts, groups),
        *_without_guard(verdicts, absent),
        *(_without_instructions(verdicts) if is_assistant else ()),
    ]


def _without_instructions(verdicts: Sequence[Verdict]) -> Iterator[Untested]:
    if not any(verdict["path"] in INSTRUCTION_BENCHMARKS for verdict in verdicts):
        yield {
            "measure": "instruction following",
            "reason": "the base model has a chat template, and no benchmark asks through it: add `assistant` to "
            "evaluation.benchmarks",
        }


def _without_text(texts: Sequence[Text], groups: Groups) -> Iterator[Untested]:
    """Groups that the recipe names but that have no held-out document."""
    if not texts:
        return
    pairs = {(text.language, text.source) for text in texts}
    for group in groups.over(pairs):
        if not any(group.contains(*pair) for pair in pairs):
            yield {
                "measure": f"{english_name(group.path)} bits per byte",
                "reason": f"no document of {group.path} is held out: raise documents.valid_share, or give an input "
                "with `constants: {split: valid}`",
            }


def _without_guard(verdicts: Sequence[Verdict], absent: Mapping[str, str]) -> Iterator[Untested]:
    """Abilities whose loss no part of the evaluation would detect."""
    kinds = {entry["kind"] for entry in verdicts}
    if "benchmark" not in kinds:
        reason = "; ".join(f"{name}: {why}" for name, why in absent.items())
        yield {
            "measure": "benchmarks",
            "reason": f"none could be run ({reason})"
            if reason
            else "evaluation.benchmarks names none, so only the "
            "prediction of held-out text was tested, and no ability beyond it",
        }
    if "bits_per_byte" in kinds and not any(
        entry["tolerance"] is not None for entry in verdicts if entry["kind"] == "bits_per_byte"
    ):
        yield {
            "measure": "tolerance",
            "reason": "no held-out text has a tolerance, so none can be called kept: set `keep: true` on an entry of "
            "the mixture, or evaluation.tolerance",
        }
