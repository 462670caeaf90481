"""`reprise evaluate MODEL [--against BASE]`: evaluates any model, without a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from reprise.errors import UserError
from reprise.evaluation.benchmarks.harness_index import harness_version
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, group_means, summarize
from reprise.evaluation.bits_per_byte import Text, byte_counts, cut_texts, group_texts, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.results import (
    METRIC_NAMES,
    BenchmarkRow,
    BenchmarkScore,
    Interval,
    ModelBitsRow,
    ModelResults,
    Results,
)
from reprise.evaluation.stage import compare_models
from reprise.processes import Processes
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.fields import Settings
from reprise.recipe.groups import Groups, find_groups
from reprise.recipe.languages.codes import find_language
from reprise.recipe.loading import apply_override, check
from reprise.recipe.model import Model


class CommandSettings(Settings):
    """What a command line without a recipe can set: `model.gguf_file=...`, `evaluation.dtype=float32`."""

    model: Model
    """The model."""
    against: Model | None = None
    """The base model that `model` was trained from."""
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
    """Settings from the options of the command line; overrides of single settings take precedence.

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
    processes: Processes | None = None,
) -> Results | ModelResults:
    """Measure one model, or compare it with its base model.

    Args:
        model: the model.
        evaluation: benchmarks, limit, window, dtype.
        against: the base model; None measures `model` alone.
        text: a file whose bits per byte are measured.
        cache: folder of the cached results.
        seed: random seed for sampling questions.
        processes: the processes that share the work.

    Raises:
        UserError: there is nothing to measure, nothing could be measured, or a file cannot be read.
    """
    if not evaluation.benchmarks and text is None:
        raise UserError("there is nothing to measure", remedy="give --suite or --text")
    texts = cut_texts(read_texts(text), evaluation.document_bytes) if text is not None else []
    groups = find_groups([], evaluation.tolerance)
    results: Results | ModelResults
    if against is not None:
        results = compare_models(
            against, model, texts, evaluation, groups=groups, cache=cache, seed=seed, processes=processes
        )
    else:
        evaluated = EvaluatedModel(model, evaluation, processes)
        results = _measure_alone(evaluated, texts, evaluation, groups=groups, cache=cache, seed=seed)
    if not results["bits_per_byte"] and not results["benchmarks"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in results["absent"].items())
        raise UserError(f"nothing could be measured ({reasons})", remedy="see docs/evaluation.md for the files")
    return results


def _measure_alone(
    evaluated: EvaluatedModel, texts: Sequence[Text], evaluation: Evaluation, *, groups: Groups, cache: Path, seed: int
) -> ModelResults:
    bits = measure_bits(evaluated, texts, evaluation, cache=cache / "bits", what="bits per byte")
    num_bytes = byte_counts(texts)
    rows: list[ModelBitsRow] = [
        {
            "path": group.path,
            "entry": group.entry,
            "language": group.language,
            "source": group.source,
            "topic": group.topic,
            "bits_per_byte": float(bits[group.members].sum() / num_bytes[group.members].sum()),
            "num_bytes": int(num_bytes[group.members].sum()),
            "documents": len(group.members),
        }
        for group in group_texts(texts, groups)
    ]
    runner = BenchmarkRunner(evaluated, evaluation, cache=cache / "benchmarks", seed=seed)
    measured = runner.run()
    return {
        "bits_per_byte": rows,
        "benchmarks": summarize(measured),
        "groups": group_means({one.benchmark: one.score for one in measured}),
        "absent": runner.absent,
        "settings": evaluation.model_dump(mode="json"),
        "fingerprint": evaluated.fingerprint,
        "harness": harness_version(),
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
        texts = [
            _text(line, f"{path}:{line_index}", path.name) for line_index, line in enumerate(lines, 1) if line.strip()
        ]
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
        raise UserError("not a JSON object with a `text`", where=where, remedy="fix the line")
    lang = str(record.get("lang") or "text")
    return Text(text, find_language(lang) or lang, str(record.get("source") or source), record.get("topic"))


def result_tables(results: Results | ModelResults) -> list[Table]:
    """The results as tables for a terminal."""
    return _comparison_tables(results) if "verdicts" in results else _model_tables(results)


def _comparison_tables(results: Results) -> list[Table]:
    bits = [
        [
            row["entry"],
            row["source"] or "all",
            row["topic"] or "",
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            f"{100 * row['change']:+.2f} %",
            _interval(row["ci"], " %"),
            row["verdict"] or "not judged",
        ]
        for row in results["bits_per_byte"]
    ]
    scores = [line for row in results["benchmarks"] for line in _benchmark_lines(row)]
    changed = ["before", "after", "change", "95 % interval", "verdict"]
    reasons = [
        *([entry["measure"], entry["reason"]] for entry in results["verdicts"] if entry["reason"]),
        *([entry["measure"], f"not tested: {entry['reason']}"] for entry in results["untested"]),
    ]
    return [
        *_table("Bits per byte (lower is better)", ["entry", "source", "topic", *changed], bits),
        *_table("Benchmarks (higher is better)", ["benchmark", "shots", "questions", *changed], scores),
        *_table("Not decided", ["measure", "why"], reasons),
    ]


def _benchmark_lines(row: BenchmarkRow) -> list[list[str]]:
    """One line for the benchmark, and one for each other metric of the same answers."""
    lines = [
        [
            row["benchmark"],
            str(row["shots"]),
            _questions(row),
            f"{100 * row['before']:.2f}",
            f"{100 * row['after']:.2f}",
            f"{100 * row['change']:+.2f}",
            _interval(row["ci"]),
            row["verdict"],
        ]
    ]
    for metric, scores in row["other_metrics"].items():
        both = [f"{100 * scores['before']:.2f}", f"{100 * scores['after']:.2f}", f"{100 * scores['change']:+.2f}"]
        name = f"  {METRIC_NAMES.get(metric, metric)}"
        lines.append([name, "", "", *both, _interval(scores["ci"]), scores["verdict"] or ""])
    return lines


def _model_tables(results: ModelResults) -> list[Table]:
    bits = [
        [row["language"], row["source"] or "all", row["topic"] or "", f"{row['bits_per_byte']:.4f}"]
        for row in results["bits_per_byte"]
    ]
    scores = []
    for row in results["benchmarks"]:
        score = f"{100 * row['score']:.2f}"
        scores.append([row["benchmark"], str(row["shots"]), _questions(row), score, _interval(row["ci"])])
        for metric, other in row["other_metrics"].items():
            scores.append([f"  {METRIC_NAMES.get(metric, metric)}", "", "", f"{100 * other:.2f}", ""])
    return [
        *_table("Bits per byte (lower is better)", ["language", "source", "topic", "bits per byte"], bits),
        *_table("Benchmarks", ["benchmark", "shots", "questions", "score", "95 % interval"], scores),
    ]


def _questions(row: BenchmarkRow | BenchmarkScore) -> str:
    return f"{row['questions']} of {row['total']} (sample)" if row["sampled"] else str(row["questions"])


def _interval(ci: Interval | None, unit: str = "") -> str:
    return "too few" if ci is None else f"{100 * ci[0]:.2f} to {100 * ci[1]:.2f}{unit}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Table]:
    """A list of one table; empty if it has no rows."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    return [table] if rows else []
