"""Stage `evaluate`: the base model and the trained one on the same held-out documents and benchmarks.

results.json
  headline       one line for the top of the report
  verdicts       [{measure, kind, language, before, after, change, unit, ci, tolerance, verdict}]
  bits_per_byte  [{language, source, topic, before, after, change, ci, tolerance, verdict, num_bytes, documents}];
                 source and topic null: the language's total; topic null: the source's total
  benchmarks     see `benchmarks.py`
  samples        [{language, prompt, before, after}]: what each model writes after the same beginnings
  settings       number format, window, fingerprints of both models
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.documents.table import DOCUMENTS, read_table
from reprise.errors import UserError
from reprise.evaluation.fingerprint import model_fingerprint
from reprise.evaluation.heldout import Text, measure_bits
from reprise.evaluation.retention import compare_rates, headline
from reprise.evaluation.samples import choose_prompts, compare_samples, write_samples
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.workspace import Work, write_json

RESULTS = "results.json"


def run(work: Work, *, evaluation: Evaluation, model: Model, last_stage: str, seed: int) -> None:
    """Measure both models and judge.

    Args:
        work: reads `score` (held-out documents) and `last_stage` (the trained model).
        evaluation: what is measured.
        model: the base model.
        last_stage: the training stage whose model is judged, such as `train-2`.
        seed: of the bootstrap.

    Raises:
        UserError: there is no held-out document.
    """
    texts = read_held_out(work.inputs["score"] / DOCUMENTS)
    trained = model.model_copy(
        update={"path": str(work.inputs[last_stage] / "model"), "gguf_file": None, "revision": None}
    )
    fingerprints = {"before": model_fingerprint(model), "after": model_fingerprint(trained)}
    bits = {
        side: measure_bits(
            which,
            texts,
            evaluation,
            fingerprint=fingerprints[side],
            cache=work.cache / "evaluation",
            what=f"evaluate {side}",
        )
        for side, which in (("before", model), ("after", trained))
    }
    prompts = choose_prompts(texts, evaluation)
    written = {
        side: write_samples(
            which,
            [prompt for _, prompt in prompts],
            evaluation,
            fingerprint=fingerprints[side],
            cache=work.cache / "evaluation",
            what=f"samples {side}",
        )
        for side, which in (("before", model), ("after", trained))
    }
    table = compare_bits(texts, bits["before"], bits["after"], evaluation, seed)
    verdicts = language_verdicts(table)
    results = {
        "headline": headline(verdicts),
        "verdicts": verdicts,
        "bits_per_byte": table,
        "benchmarks": [],
        "samples": compare_samples(prompts, written["before"], written["after"]),
        "settings": evaluation.model_dump(mode="json") | {"fingerprints": fingerprints},
    }
    write_json(work.output / RESULTS, results)
    work.counts.update(documents=len(texts), bytes=sum(len(text.text.encode()) for text in texts))
    work.counts["headline"] = results["headline"]


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
    for (language, source, topic), members in _groups(texts):
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


def _groups(texts: Sequence[Text]) -> Iterator[tuple[tuple[str, str | None, str | None], npt.NDArray[np.int64]]]:
    """Each language, then its sources, then their topics, with the positions of their documents."""
    groups: dict[tuple[str, str | None, str | None], list[int]] = {}
    for position, text in enumerate(texts):
        keys = {
            (text.language, None, None),
            (text.language, text.source, None),
            (text.language, text.source, text.topic),
        }
        for key in keys:
            groups.setdefault(key, []).append(position)
    for key in sorted(groups, key=lambda key: tuple(part or "" for part in key)):
        yield key, np.array(groups[key])
