"""The model card: README.md of a published folder, written from the record of the run's report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml

from reprise.documents.read.stage import ReadCounts
from reprise.errors import UserError
from reprise.model.files import model_folder
from reprise.recipe import Recipe
from reprise.report.facts import gather
from reprise.report.records import Report
from reprise.report.training_records import BudgetRow
from reprise.workspace import Workspace

_LICENCES = 20
"""Maximum licences that are listed for a source."""
_VERDICTS = ("gained", "kept", "lost", "undecided")


def write_card(workspace: Workspace, recipe: Recipe, *, name: str, change: str = "") -> str:
    """Write the text of README.md, with metadata that the Hub accepts.

    Args:
        workspace: the run.
        recipe: its recipe.
        name: name of the model in the card.
        change: a sentence about what was done to the weights after training, such as a quantization; may be empty.

    Raises:
        UserError: nothing has been trained yet.
    """
    facts = gather(workspace, recipe)
    if not any(stage["start"] for stage in facts["training"]):
        raise UserError("nothing was trained yet", where=recipe.workspace, remedy="run `reprise train RECIPE` first")
    lines = [
        "---",
        yaml.safe_dump(metadata(facts, recipe, name), allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"{_shown_model(recipe)}, trained further on {_tokens(facts):,} tokens with "
        f"[Reprise](https://arxiv.org/abs/2407.18743) {facts['run']['version']}.",
        *([change] if change else []),
        "",
        *_verdict_lines(facts),
        *_base_lines(recipe),
        *_vocabulary_lines(facts),
        *_data_lines(facts, recipe),
        *_training_lines(facts, recipe),
        *_repeat_lines(facts, recipe),
    ]
    return "\n".join(lines) + "\n"


def metadata(facts: Report, recipe: Recipe, name: str) -> dict[str, Any]:
    """The card's metadata: languages and results, and the base model and data sets if they are on the Hub."""
    hub_base = recipe.model.path if is_hub_name(recipe) else None
    datasets = sorted({one for one in map(_hub_dataset, _input_paths(recipe)) if one is not None})
    licence = base_licence(recipe)
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["continual-pre-training", "reprise"],
        "language": _languages(recipe),
    }
    if licence is not None:
        values["license"] = licence
    if hub_base is not None:
        values |= {"base_model": hub_base, "base_model_relation": "finetune"}
    if datasets:
        values["datasets"] = datasets
    if results := [*_bits_results(facts), *_benchmark_results(facts)]:
        values["model-index"] = [{"name": name, "results": results}]
    return values


def is_hub_name(recipe: Recipe) -> bool:
    """Whether `model.path` is a name on the Hub."""
    return model_folder(recipe.model) is None


def base_licence(recipe: Recipe) -> str | None:
    """Licence in the base model's own card; None if its folder has no card, or the card no licence."""
    folder = model_folder(recipe.model)
    path = None if folder is None else folder / "README.md"
    if path is None or not path.is_file():
        return None
    parts = path.read_text(encoding="utf-8").split("---\n")
    try:
        stated = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    licence = stated.get("license") if isinstance(stated, dict) else None
    return licence if isinstance(licence, str) else None


def _languages(recipe: Recipe) -> list[str]:
    parts = (item for stage in recipe.stages for item in stage.mixture.items())
    return list(dict.fromkeys(part.language or name for name, part in parts if part.share))


def _input_paths(recipe: Recipe) -> list[str]:
    paths = [entry.path for entry in recipe.documents.inputs]
    return [path for entry in paths for path in (entry if isinstance(entry, list) else [entry])]


def _hub_dataset(path: str) -> str | None:
    """`owner/name` of `hf://datasets/owner/name@revision/...`."""
    if not path.startswith("hf://datasets/"):
        return None
    parts = path.removeprefix("hf://datasets/").split("/")
    return "/".join(parts[:2]).split("@")[0] if len(parts) > 1 else None


def _bits_results(facts: Report) -> Iterable[dict[str, Any]]:
    for row in facts["bits_per_byte"]:
        if row["source"] is None and row["topic"] is None:
            yield _result(
                f"held-out {row['path']} ({row['documents']} documents)", "held-out", row["language"],
                "bits_per_byte", "bits per byte (lower is better)", row["after"],
            )  # fmt: skip


def _benchmark_results(facts: Report) -> Iterable[dict[str, Any]]:
    for row in facts["benchmarks"]:
        yield _result(
            row["benchmark"], row["benchmark"], row["language"], "accuracy" if row["metric"].startswith("acc")
            else row["metric"], f"{row['metric']}, {row['shots']} shots", row["after"],
        )  # fmt: skip


def _result(data: str, data_type: str, language: str, metric: str, metric_name: str, value: float) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation", "name": "Text generation"},
        "dataset": {"name": data, "type": data_type, "args": {"language": language}},
        "metrics": [{"type": metric, "name": metric_name, "value": round(value, 6)}],
    }


def _verdict_lines(facts: Report) -> list[str]:
    verdict = facts["verdict"]
    if verdict["provisional"]:
        return ["## What it gained and kept", "", "Not evaluated yet: run `reprise evaluate`.", ""]
    lines = ["## What it gained and kept", "", verdict["headline"] or "", ""]
    lines += ["| measure | base | this model | change | 95 % interval | verdict |", "|---|---|---|---|---|---|"]
    for word in _VERDICTS:
        for one in verdict["verdicts"]:
            if one["verdict"] == word:
                ci = one["ci"]
                interval = "none" if ci is None else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f} %"
                lines.append(
                    f"| {one['measure']} | {one['before']:.4g} | {one['after']:.4g} | {100 * one['change']:+.1f} % | "
                    f"{interval} | {word} |"
                )
    if facts["document_bytes"]:
        lines += ["", f"Bits per byte of the first {facts['document_bytes']:,} bytes of each held-out document.", ""]
    lines += [f"- Not tested: {entry['measure']} ({entry['reason']})" for entry in verdict["untested"]]
    return [*lines, ""]


def _base_lines(recipe: Recipe) -> list[str]:
    licence = base_licence(recipe)
    said = f"its card names the licence `{licence}`" if licence else "its licence is stated where it was published"
    return ["## Base model", "", f"{_shown_model(recipe)}; {said}. The licence of the base model applies.", ""]


def _vocabulary_lines(facts: Report) -> list[str]:
    """Section about tokens that were added to the base model's vocabulary."""
    vocabulary = facts["vocabulary"]
    if vocabulary is None:
        return []
    lines = [
        "## Vocabulary", "",
        f"{vocabulary['tokens_added']:,} tokens were added, learned from {vocabulary['bytes_learned_from'] / 1e6:,.3g} "
        f"MB of the training text; their ids begin at {vocabulary['first_id']}, and every token of the base model "
        "keeps its own. The numbers above are bits per byte, which do not depend on the vocabulary.", "",
        "| language | bytes per token, base model | this model |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {row['language']} | {row['before']:.2f} | {row['after']:.2f} |" for row in vocabulary["compression"]]
    return [*lines, ""]


def _shown_model(recipe: Recipe) -> str:
    """Name of the base model, without the folders of this machine."""
    if is_hub_name(recipe):
        revision = f" at {recipe.model.revision}" if recipe.model.revision else ""
        return f"[{recipe.model.path}](https://huggingface.co/{recipe.model.path}){revision}"
    return Path(recipe.model.path.removeprefix("package:")).name


def _data_lines(facts: Report, recipe: Recipe) -> list[str]:
    lines = ["## Data", "", "| mixture | source | planned tokens | trained on | epochs |", "|---|---|---|---|---|"]
    groups: dict[tuple[str, str], list[BudgetRow]] = {}
    for row in facts["budget"]:
        groups.setdefault((row["entry"], row["source"]), []).append(row)
    for (entry, source), rows in groups.items():
        planned, spent = sum(row["planned"] or 0 for row in rows), sum(row["spent"] or 0 for row in rows)
        epochs = max((row["epochs"] or 0.0 for row in rows), default=0.0)
        lines.append(f"| {entry} | {source} | {planned:,} | {spent:,} | {epochs:.2f} |")
    shown = [path if "://" in path else Path(path).name for path in _input_paths(recipe)]
    names = ", ".join(f"`{path}`" for path in shown)
    lines += ["", f"Read from: {names}. The licences of the documents are those of their sources."]
    return [*lines, *_licence_lines(facts), ""]


def _licence_lines(facts: Report) -> list[str]:
    """Licences of the documents by source, counted when they were read, before cleaning."""
    of_read = next((stage["counts"] for stage in facts["stages"] if stage["stage"] == "read"), {})
    if not of_read.get("licences"):
        return []
    counts = cast(ReadCounts, of_read)
    lines = ["", "| source | licence that documents carry | documents read |", "|---|---|---|"]
    for source, by_licence in counts["licences"].items():
        total = sum(bucket["documents"] for bucket in counts["buckets"] if bucket["source"] == source)
        rows = [*by_licence.items(), ("none named", total - sum(by_licence.values()))]
        lines += [f"| {source} | {_cell(licence)} | {count:,} |" for licence, count in rows[:_LICENCES] if count]
        if len(rows) > _LICENCES:
            lines.append(
                f"| {source} | {len(rows) - _LICENCES} others | {sum(count for _, count in rows[_LICENCES:]):,} |"
            )
    return lines


def _cell(text: str) -> str:
    """Escape text from a document for a cell of a table."""
    return " ".join(text.split())[:80].replace("|", "\\|")


def _tokens(facts: Report) -> int:
    return facts["repeat"]["cost"]["tokens"]


def _training_lines(facts: Report, recipe: Recipe) -> list[str]:
    cost, machine = facts["repeat"]["cost"], facts["repeat"]["machine"]
    hours = cost["process_hours"]
    lines = ["## Training", "", f"- Tokens: {_tokens(facts):,} in {len(recipe.stages)} stages, rows of "
             f"{recipe.rows.seq_len} tokens, {recipe.training.batch_rows} rows a batch"]  # fmt: skip
    if machine is not None:
        device = ", ".join(sorted(set(machine["accelerators"]))) or machine["processor"]
        lines.append(f"- Hardware: {machine['processes']} process(es) on {device}, {hours:.3g} process-hours")
    if cost["training_flops"] is not None:
        lines.append(f"- Compute: {cost['training_flops']:.3g} FLOPs")
    watts = recipe.hardware.watts
    if watts:
        lines.append(
            f"- Energy, estimated: {hours * watts / 1000:.3g} kWh ({watts:g} W for each process, as the recipe says)"
        )
    else:
        lines.append("- Energy: not estimated (`hardware.watts` is not set)")
    return [*lines, ""]


def _repeat_lines(facts: Report, recipe: Recipe) -> list[str]:
    stages = [f"{stage['stage']} `{stage['fingerprint'][:12]}`" for stage in facts["stages"] if stage["fingerprint"]]
    settings = _without_folders(recipe.model_dump(mode="json", exclude_defaults=True))
    return [
        "## How to repeat it",
        "",
        f"`reprise run` with these settings (all others are defaults), the same inputs and seed {recipe.seed}. "
        f"Fingerprints of the stages: {', '.join(stages)}.",
        "",
        "```yaml",
        yaml.safe_dump(settings, allow_unicode=True, sort_keys=False).rstrip(),
        "```",
    ]


def _without_folders(value: Any) -> Any:
    """Settings with paths of this machine reduced to their last part."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    is_folder = isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or Path(value).is_dir())
    return Path(value).name if is_folder else value
