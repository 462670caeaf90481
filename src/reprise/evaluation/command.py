"""`reprise evaluate MODEL [--against BASE]`: the measures on any model, without a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from reprise.errors import UserError
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, group_means, harness_version, summarize
from reprise.evaluation.bits_per_byte import Text, group_texts, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.stage import compare_models
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.fields import Settings
from reprise.recipe.languages.codes import find_language
from reprise.recipe.loading import apply_override, check
from reprise.recipe.model import Model


class CommandSettings(Settings):
    """What a command line without a recipe can set: `model.gguf_file=...`, `evaluation.dtype=float32`."""

    model: Model
    """The model."""
    against: Model | None = None
    """The model that it came from."""
    evaluation: Evaluation = Evaluation()


def read_settings(
    model: str,
    overrides: Sequence[str],
    *,
    against: str | None,
    suite: Sequence[str] | None,
    data: Path | None,
    limit: int,
    backend: str | None,
    run_code: bool,
    **others: Any,
) -> CommandSettings:
    """The options of the command line, with overrides of single settings over them.

    Raises:
        UserError: a setting does not pass its check.
    """
    evaluation: dict[str, Any] = {"benchmarks": list(suite or []), "limit": limit, "run_code": run_code}
    evaluation["data"] = None if data is None else str(data)
    if backend is not None:
        evaluation["backend"] = {"kind": "vllm"} if backend == "vllm" else {"kind": "openai", "base_url": backend}
    values: dict[str, Any] = {"model": {"path": model}, "evaluation": evaluation}
    if against is not None:
        values["against"] = {"path": against}
    for override in overrides:
        apply_override(values, override)
    return check(CommandSettings, values, where="the command line")


def evaluate_model(
    model: Model,
    *,
    evaluation: Evaluation,
    against: Model | None = None,
    text: Path | None = None,
    cache: Path,
    seed: int = 17,
) -> dict[str, Any]:
    """Measure one model, or compare it with the model it came from.

    Args:
        model: the model.
        evaluation: benchmarks, limit, window, number format.
        against: the base model; None measures `model` alone.
        text: a file whose bits per byte are measured.
        cache: folder of answers that were computed before.
        seed: of the bootstrap and of the choice of questions.

    Returns:
        With `against` what `results.json` holds (see `stage.py`); alone {bits_per_byte: [{language, source, topic,
        bits_per_byte, num_bytes, documents}], benchmarks: see `benchmarks.summarize`, groups, absent, settings}.

    Raises:
        UserError: there is nothing to measure, nothing could be measured, or a file cannot be read.
    """
    if not evaluation.benchmarks and text is None:
        raise UserError("there is nothing to measure", remedy="give --suite or --text")
    texts = read_texts(text) if text is not None else []
    if against is not None:
        results = compare_models(against, model, texts, evaluation, cache=cache, seed=seed)
    else:
        results = _measure_alone(model, texts, evaluation, cache=cache, seed=seed)
    if not results["bits_per_byte"] and not results["benchmarks"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in results["absent"].items())
        raise UserError(f"nothing could be measured ({reasons})", remedy="see docs/evaluation.md for the files")
    return results


def _measure_alone(
    model: Model, texts: Sequence[Text], evaluation: Evaluation, *, cache: Path, seed: int
) -> dict[str, Any]:
    evaluated = EvaluatedModel(model, evaluation)
    bits = measure_bits(evaluated, texts, evaluation, cache=cache / "bits", what="bits per byte")
    num_bytes = np.array([len(entry.text.encode()) for entry in texts], dtype=np.float64)
    rows = [
        {"language": language, "source": source, "topic": topic}
        | {"bits_per_byte": float(bits[members].sum() / num_bytes[members].sum())}
        | {"num_bytes": int(num_bytes[members].sum()), "documents": len(members)}
        for (language, source, topic), members in group_texts(texts)
    ]
    runner = BenchmarkRunner(evaluated, evaluation, cache=cache / "benchmarks", seed=seed)
    measured = runner.run()
    return {
        "bits_per_byte": rows,
        "benchmarks": summarize(measured),
        "groups": group_means({one.benchmark: one.score for one in measured}),
        "absent": runner.absent,
        "settings": evaluation.model_dump(mode="json")
        | {"fingerprints": {"model": evaluated.fingerprint}, "harness": harness_version()},
    }


def read_texts(path: Path) -> list[Text]:
    """Documents of a file: JSON Lines with `text` (and `lang`, `source`, `topic`); any other file is one document.

    Raises:
        UserError: the file or a line of it cannot be read.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("the text is not UTF-8", where=str(path), remedy="save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"the text cannot be read: {error.strerror}", where=str(path)) from None
    if path.suffix != ".jsonl":
        texts = [Text(content, "text", path.name)] if content else []
    else:
        lines = content.split("\n")
        texts = [_text(line, f"{path}:{number}", path.name) for number, line in enumerate(lines, 1) if line.strip()]
        texts = [text for text in texts if text.text]
    if not texts:
        raise UserError("the file holds no text", where=str(path))
    return texts


def _text(line: str, where: str, source: str) -> Text:
    try:
        record = json.loads(line)
        text = record["text"]
    except (ValueError, TypeError, KeyError):
        text = None
    if not isinstance(text, str):
        raise UserError("not a JSON object with a `text`", where=where, remedy="mend the line")
    lang = str(record.get("lang") or "text")
    return Text(text, find_language(lang) or lang, str(record.get("source") or source), record.get("topic"))


def result_tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables for a terminal."""
    compared = "verdicts" in results
    values = ["before", "after"] if compared else ["bits_per_byte"]
    tables = []
    if results["bits_per_byte"]:
        rows = [
            [row["language"], row["source"] or "all", row["topic"] or ""]
            + [f"{row[name]:.4f}" for name in values]
            + ([f"{100 * row['change']:+.2f} %", _interval(row["ci"], 100, " %"), row["verdict"]] if compared else [])
            for row in results["bits_per_byte"]
        ]
        extra = ["change", "95 % interval", "verdict"] if compared else []
        tables.append(_table("Bits per byte", ["language", "source", "topic", *values, *extra], rows))
    if results["benchmarks"]:
        names = ["before", "after"] if compared else ["score"]
        rows = [
            [row["benchmark"], str(row["shots"]), _questions(row)]
            + [f"{100 * row[name]:.2f}" for name in names]
            + ([f"{100 * row['change']:+.2f}"] if compared else [])
            + [_interval(row["ci"], 100, "")]
            + ([row["verdict"]] if compared else [])
            for row in results["benchmarks"]
        ]
        extra = ["change", "95 % interval", "verdict"] if compared else ["95 % interval"]
        tables.append(_table("Benchmarks", ["benchmark", "shots", "questions", *names, *extra], rows))
    return tables


def _questions(row: dict[str, Any]) -> str:
    return f"{row['questions']} of {row['total']} (sample)" if row["sampled"] else str(row["questions"])


def _interval(ci: Sequence[float] | None, factor: float, unit: str) -> str:
    return "too few" if ci is None else f"{factor * ci[0]:.2f} to {factor * ci[1]:.2f}{unit}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    return table
