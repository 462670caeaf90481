"""Stage `evaluate`: the base model and the trained one on the same held-out documents and benchmarks.

It writes `results.json`; `results.py` says what that contains.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reprise.documents.table import DOCUMENTS, read_table
from reprise.errors import UserError
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, compare_benchmarks, group_means, harness_version
from reprise.evaluation.bits_per_byte import Text, TextGroup, byte_counts, group_texts, measure_bits
from reprise.evaluation.curves import measure_curve, trained_model
from reprise.evaluation.intervals import Estimate, estimate_rate
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.results import BenchmarkRow, BitsRow, Results, Untested, Verdict
from reprise.evaluation.samples import choose_prompts, continue_prompts
from reprise.evaluation.verdicts import Judgement, headline, judge_all
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import Groups
from reprise.recipe.model import Model
from reprise.workspace import Work, write_json

RESULTS = "results.json"


def run(work: Work, *, evaluation: Evaluation, model: Model, groups: Groups, last_stage: str, seed: int) -> None:
    """Measure both models and judge.

    Args:
        work: reads `score` (held-out documents) and the training stages, in order.
        evaluation: what is measured.
        model: the base model.
        groups: which held-out documents get a verdict together, and what each group may lose.
        last_stage: the training stage whose model is judged, such as `train-2`.
        seed: random seed of the choice of questions.

    Raises:
        UserError: there is no held-out document.
    """
    texts = read_held_out(work.inputs["score"] / DOCUMENTS)
    trained = trained_model(model, work.inputs[last_stage])
    results = compare_models(model, trained, texts, evaluation, groups=groups, cache=work.cache, seed=seed)
    if evaluation.backend.kind == "transformers":
        stages = [folder for name, folder in work.inputs.items() if name.startswith("train-")]
        scratch = work.output / "model"
        results["curve"] = measure_curve(
            model, stages, texts, evaluation, groups=groups, cache=work.cache, scratch=scratch, seed=seed
        )
    write_json(work.output / RESULTS, results)
    work.counts.update(documents=len(texts), bytes=sum(len(text.text.encode()) for text in texts))
    work.counts["headline"] = results["headline"]


def compare_models(
    before: Model,
    after: Model,
    texts: Sequence[Text],
    evaluation: Evaluation,
    *,
    groups: Groups,
    cache: Path,
    seed: int,
) -> Results:
    """Everything that is measured on two models, as written to `results.json`.

    Args:
        before: the base model.
        after: the trained model.
        texts: held-out documents; may be empty.
        evaluation: what is measured.
        groups: which documents get a verdict together.
        cache: folder of answers that were computed before.
        seed: random seed of the choice of questions.
    """
    sides = {"before": EvaluatedModel(before, evaluation), "after": EvaluatedModel(after, evaluation)}
    prompts = choose_prompts(texts, evaluation)
    bits, scores, said, absent = {}, {}, {}, {}
    for side, evaluated in sides.items():
        bits[side] = measure_bits(evaluated, texts, evaluation, cache=cache / "bits", what=f"bits per byte {side}")
        runner = BenchmarkRunner(evaluated, evaluation, cache=cache / "benchmarks", seed=seed)
        scores[side] = runner.run()
        absent.update(runner.absent)
        said[side] = continue_prompts(evaluated, prompts, evaluation, cache=cache / "samples")
        del runner
        evaluated.release()  # two large models need not fit at once
    table = compare_bits(texts, bits["before"], bits["after"], groups)
    benchmarks = compare_benchmarks(scores["before"], scores["after"], evaluation)
    verdicts = _judge(table, benchmarks)
    untested = [*_without_text(texts, groups), *_without_guard(verdicts, absent)]
    rows = [row for row, _ in benchmarks]
    return {
        "headline": headline(verdicts, untested),
        "verdicts": verdicts,
        "untested": untested,
        "bits_per_byte": [row for row, _ in table],
        "benchmarks": rows,
        "groups": {
            "before": group_means({row["benchmark"]: row["before"] for row in rows}),
            "after": group_means({row["benchmark"]: row["after"] for row in rows}),
        },
        "absent": absent,
        "samples": [
            {"language": language, "prompt": prompt, "before": one, "after": two}
            for (language, prompt), one, two in zip(prompts, said["before"], said["after"], strict=True)
        ],
        "settings": evaluation.model_dump(mode="json")
        | {"fingerprints": {side: evaluated.fingerprint for side, evaluated in sides.items()}}
        | {"harness": harness_version()},
    }


def read_held_out(folder: Path) -> list[Text]:
    """The documents with split `valid`.

    Raises:
        UserError: there are none.
    """
    texts = [
        Text(row["text"], row["lang"], row["source"], row["topic"])
        for batch in read_table(folder, ["text", "lang", "source", "topic", "split"])
        for row in batch.to_pylist()
        if row["split"] == "valid" and row["text"]
    ]
    if not texts:
        raise UserError(
            "no document is held out, so nothing can be measured",
            where="documents.valid_share",
            remedy="raise it, or give an input with `constants: {split: valid}`",
        )
    return texts


def compare_bits(
    texts: Sequence[Text], before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], groups: Groups
) -> list[tuple[BitsRow, Estimate]]:
    """Bits per byte of each entry, source and topic, before and after; verdicts are not filled in yet.

    Args:
        texts: the documents.
        before: float64[len(texts)], bits of each document under the base model.
        after: float64[len(texts)], under the trained model.
        groups: which documents belong together.
    """
    num_bytes = byte_counts(texts)
    table = []
    for group in group_texts(texts, groups):
        members = group.members
        estimate = estimate_rate(before[members], after[members], num_bytes[members])
        table.append((_bits_row(group, estimate, int(num_bytes[members].sum())), estimate))
    return table


def _bits_row(group: TextGroup, estimate: Estimate, num_bytes: int) -> BitsRow:
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
        "ci": estimate.interval(),
        "tolerance": group.tolerance,
        "verdict": "undecided" if group.is_judged else None,
        "num_bytes": num_bytes,
        "documents": len(group.members),
    }


def _judge(
    table: Sequence[tuple[BitsRow, Estimate]], benchmarks: Sequence[tuple[BenchmarkRow, Estimate]]
) -> list[Verdict]:
    """Judge all rows as one family, and write the verdicts into them."""
    judged = [(row, estimate) for row, estimate in table if row["verdict"] is not None]
    measures = [
        *((estimate, row["tolerance"]) for row, estimate in judged),
        *((estimate, row["tolerance"]) for row, estimate in benchmarks),
    ]
    judgements = iter(judge_all(measures))
    verdicts: list[Verdict] = []
    for row, estimate in judged:
        judgement = next(judgements)
        row["verdict"] = judgement.verdict
        verdicts.append(
            {
                "measure": f"{row['path']} bits per byte",
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
    for question, _ in benchmarks:
        judgement = next(judgements)
        question["verdict"] = judgement.verdict
        verdicts.append(_benchmark_verdict(question, judgement))
    return verdicts


def _benchmark_verdict(row: BenchmarkRow, judgement: Judgement) -> Verdict:
    return {
        "measure": row["benchmark"],
        "kind": "benchmark",
        "path": row["benchmark"],
        "language": row["language"],
        "before": row["before"],
        "after": row["after"],
        "change": row["change"],
        "unit": "difference",
        "better": "higher",
        "items": row["questions"],
        "ci": row["ci"],
        "judged_error": judgement.error,
        "judged_ci": judgement.ci,
        "tolerance": row["tolerance"],
        "verdict": judgement.verdict,
        "reason": judgement.reason,
    }


def _without_text(texts: Sequence[Text], groups: Groups) -> Iterator[Untested]:
    """Groups that the recipe names and of which no document is held out."""
    if not texts:
        return
    pairs = {(text.language, text.source) for text in texts}
    for group in groups.over(pairs):
        if not any(group.contains(*pair) for pair in pairs):
            yield {
                "measure": f"{group.path} bits per byte",
                "reason": f"no document of {group.path} is held out: raise documents.valid_share, or give an input "
                "with `constants: {split: valid}`",
            }


def _without_guard(verdicts: Sequence[Verdict], absent: dict[str, str]) -> Iterator[Untested]:
    """What nothing in the evaluation would notice if it were lost."""
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
