"""Stage `evaluate`: the base model and the trained one on the same held-out documents and benchmarks.

It writes `results.json`; `results.py` says what that contains.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from reprise.documents.table import DOCUMENTS, DROPPED, read_table
from reprise.errors import UserError
from reprise.evaluation.benchmarks.harness_index import harness_version
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, compare_benchmarks, group_means
from reprise.evaluation.bits_per_byte import Text, cut_texts, measure_bits
from reprise.evaluation.comparison import compare_bits, find_untested, judge_rows
from reprise.evaluation.curves import measure_curve, trained_model
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.results import EvaluateCounts, Results
from reprise.evaluation.samples import choose_prompts, continue_prompts
from reprise.evaluation.verdicts import headline
from reprise.processes import Processes
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import Groups
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.workspace import Work

RESULTS = "results.json"


class _Means(TypedDict):
    """Keyword arguments that both kinds of measurement take."""

    groups: Groups
    cache: Path
    seed: int
    processes: Processes


def run(
    work: Work,
    *,
    evaluation: Evaluation,
    model: Model,
    groups: Groups,
    last_stage: str,
    seed: int,
    start: Model | None = None,
) -> None:
    """Measure both models and judge.

    Args:
        work: reads `score` (held-out documents) and the training stages, in order.
        evaluation: what is measured.
        model: the base model.
        groups: which held-out documents get a verdict together, and what each group may lose.
        last_stage: the training stage whose model is judged, such as `train-2`.
        seed: random seed for sampling questions.
        start: the model that training began with, if that is the base model with a larger vocabulary.

    Raises:
        UserError: there is no held-out document.
    """
    held_out = read_held_out(work.inputs["score"] / DOCUMENTS, without=work.inputs["tokenize"] / DROPPED)
    texts = cut_texts(held_out, evaluation.document_bytes)
    scratch = work.output / "model"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed evaluation
    start = start or model
    trained = trained_model(start, work.inputs[last_stage])
    how: _Means = {"groups": groups, "cache": work.cache, "seed": seed, "processes": work.processes}
    results = compare_models(model, trained, texts, evaluation, **how)
    if evaluation.backend.kind == "transformers":
        stages = [folder for name, folder in work.inputs.items() if name.startswith("train-")]
        results["curve"] = measure_curve(model, start, stages, texts, evaluation, scratch=scratch, **how)
    write_json(work.output / RESULTS, results)
    counts: EvaluateCounts = {
        "documents": len(texts),
        "bytes": sum(text.num_bytes for text in texts),
        "headline": results["headline"],
    }
    work.counts.update(counts)


def compare_models(
    before: Model,
    after: Model,
    texts: Sequence[Text],
    evaluation: Evaluation,
    *,
    groups: Groups,
    cache: Path,
    seed: int,
    processes: Processes | None = None,
) -> Results:
    """Everything that is measured on two models, as written to `results.json`.

    Args:
        before: the base model.
        after: the trained model.
        texts: held-out documents; may be empty.
        evaluation: what is measured.
        groups: which documents get a verdict together.
        cache: folder of the cached results.
        seed: random seed for sampling questions.
        processes: the processes that share the work.
    """
    sides: dict[Literal["before", "after"], EvaluatedModel] = {
        "before": EvaluatedModel(before, evaluation, processes),
        "after": EvaluatedModel(after, evaluation, processes),
    }
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
    table = compare_bits(texts, bits["before"], bits["after"], groups, evaluation.bootstrap_samples)
    benchmarks = compare_benchmarks(scores["before"], scores["after"], evaluation)
    verdicts = judge_rows(table, benchmarks)
    base = sides["before"]
    is_assistant = base.in_process and base.tokenizer.chat_template is not None
    untested = find_untested(texts, groups, verdicts, absent, is_assistant=is_assistant)
    rows = [compared.row for compared in benchmarks]
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
        "settings": evaluation.model_dump(mode="json"),
        "fingerprints": {side: evaluated.fingerprint for side, evaluated in sides.items()},
        "harness": harness_version(),
    }


def read_held_out(folder: Path, without: Path | None = None) -> list[Text]:
    """The documents with split `valid`.

    Args:
        folder: the document table.
        without: table of the documents that the stage `tokenize` dropped; they cannot be measured and are skipped.

    Raises:
        UserError: there are none.
    """
    left_out = {
        document
        for batch in (read_table(without, ["id"]) if without is not None else ())
        for document in batch.column("id").to_pylist()
    }
    texts = [
        Text(row["text"], row["lang"], row["source"], row["topic"], row["messages"])
        for batch in read_table(folder, ["id", "text", "lang", "source", "topic", "split", "messages"])
        for row in batch.to_pylist()
        if row["split"] == "valid" and row["text"] and row["id"] not in left_out
    ]
    if not texts:
        raise UserError(
            "no document is held out, so nothing can be measured",
            where="documents.valid_share",
            remedy="raise it, or give an input with `constants: {split: valid}`",
        )
    return texts
