"""Stage `evaluate`: the base model and the trained one on the same held-out documents and benchmarks.

results.json
  headline       one line for the top of the report
  verdicts       [{measure, kind, language, before, after, change, unit, ci, tolerance, verdict}]
  bits_per_byte  [{language, source, topic, before, after, change, ci, tolerance, verdict, num_bytes, documents}];
                 source and topic null: the language's total; topic null: the source's total
  benchmarks     see `benchmarks.py`
  curve          [{kind, stage, tokens, factor, bits_per_byte, change, scores}]: see `curves.py`
  samples        [{language, prompt, before, after}]: what each model writes after the same beginnings
  settings       number format, window, fingerprints of both models, version of lm-evaluation-harness
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.documents.table import DOCUMENTS, read_table
from reprise.errors import UserError
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, compare_benchmarks, group_means, harness_version
from reprise.evaluation.bits_per_byte import Text, group_texts, measure_bits
from reprise.evaluation.curves import measure_curve, trained_model
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.samples import choose_prompts, continue_prompts
from reprise.evaluation.verdicts import compare_rates, headline
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.workspace import Work

RESULTS = "results.json"


def run(work: Work, *, evaluation: Evaluation, model: Model, last_stage: str, seed: int) -> None:
    """Measure both models and judge.

    Args:
        work: reads `score` (held-out documents) and the training stages, in order.
        evaluation: what is measured.
        model: the base model.
        last_stage: the training stage whose model is judged, such as `train-2`.
        seed: of the bootstrap.

    Raises:
        UserError: there is no held-out document.
    """
    texts = read_held_out(work.inputs["score"] / DOCUMENTS)
    trained = trained_model(model, work.inputs[last_stage])
    results = compare_models(model, trained, texts, evaluation, cache=work.cache, seed=seed)
    if evaluation.backend.kind == "transformers":
        stages = [folder for name, folder in work.inputs.items() if name.startswith("train-")]
        scratch = work.output / "model"
        results["curve"] = measure_curve(model, stages, texts, evaluation, cache=work.cache, scratch=scratch, seed=seed)
    write_json(work.output / RESULTS, results)
    work.counts.update(documents=len(texts), bytes=sum(len(text.text.encode()) for text in texts))
    work.counts["headline"] = results["headline"]


def compare_models(
    before: Model, after: Model, texts: Sequence[Text], evaluation: Evaluation, *, cache: Path, seed: int
) -> dict[str, Any]:
    """Everything that is measured on two models, as written to `results.json`.

    Args:
        before: the base model.
        after: the trained model.
        texts: held-out documents; may be empty.
        evaluation: what is measured.
        cache: folder of answers that were computed before.
        seed: of the bootstrap and of the choice of questions.
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
    table = compare_bits(texts, bits["before"], bits["after"], evaluation, seed)
    benchmarks = compare_benchmarks(scores["before"], scores["after"], evaluation, seed)
    verdicts = language_verdicts(table) + benchmark_verdicts(benchmarks)
    return {
        "headline": headline(verdicts),
        "verdicts": verdicts,
        "bits_per_byte": table,
        "benchmarks": benchmarks,
        "groups": {side: group_means({row["benchmark"]: row[side] for row in benchmarks}) for side in sides},
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
    texts: Sequence[Text],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    evaluation: Evaluation,
    seed: int,
) -> list[dict[str, Any]]:
    """Bits per byte of each language, source and topic, before and after."""
    num_bytes = np.array([len(text.text.encode()) for text in texts], dtype=np.float64)
    rows = []
    for (language, source, topic), members in group_texts(texts):
        change = compare_rates(
            before[members],
            after[members],
            num_bytes[members],
            tolerance=evaluation.tolerance.get(language),
            samples=evaluation.bootstrap_samples,
            seed=seed,
        )
        size = {"num_bytes": int(num_bytes[members].sum()), "documents": len(members)}
        rows.append({"language": language, "source": source, "topic": topic} | change.as_json() | size)
    return rows


def language_verdicts(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The languages' totals as verdicts."""
    names = ("before", "after", "change", "ci", "tolerance", "verdict")
    return [
        {"measure": f"{row['language']} bits per byte", "kind": "bits_per_byte", "language": row["language"]}
        | {"unit": "relative"}
        | {name: row[name] for name in names}
        for row in table
        if row["source"] is None
    ]


def benchmark_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The benchmarks as verdicts; the unit of their change is a difference of shares."""
    names = ("language", "before", "after", "change", "ci", "tolerance", "verdict")
    return [
        {"measure": row["benchmark"], "kind": "benchmark", "unit": "difference"} | {name: row[name] for name in names}
        for row in rows
    ]
