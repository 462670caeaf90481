"""The model card: README.md of a published folder, written from the record of the run's report."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from reprise.documents.read.stage import ReadCounts
from reprise.errors import UserError
from reprise.publish.gguf_file import TYPES
from reprise.publish.origin import LICENCE_KEYS, NamedModel, Origin, name_model
from reprise.recipe import Recipe
from reprise.report.facts import gather
from reprise.report.records import Report
from reprise.report.training_records import BudgetRow
from reprise.workspace import Workspace

_LICENCES = 20
"""Maximum licences that are listed for a source."""
_VERDICTS = ("gained", "kept", "lost", "undecided")


def write_card(workspace: Workspace, recipe: Recipe, *, name: str, origin: Origin | None) -> str:
    """Write the text of README.md, with metadata that the Hub accepts.

    Args:
        workspace: the run.
        recipe: its recipe.
        name: name of the model in the card.
        origin: how the model was made from the trained one; None: unknown. Measurements of the run are said to be of
            this model only if it is the trained model itself.

    Raises:
        UserError: nothing has been trained yet.
    """
    facts = gather(workspace, recipe)
    if not any(stage["start"] for stage in facts["training"]):
        raise UserError("nothing was trained yet", where=recipe.workspace, remedy="run `reprise train RECIPE` first")
    base = name_model(recipe.model)
    lines = [
        "---",
        yaml.safe_dump(metadata(facts, recipe, base, name, origin), allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        *_origin_lines(facts, base, origin),
        "",
        *_verdict_lines(facts, origin),
        *_base_lines(base, origin),
        *_vocabulary_lines(facts),
        *_data_lines(facts, recipe),
        *_training_lines(facts, recipe),
        *_repeat_lines(facts, recipe, origin),
    ]
    return "\n".join(lines) + "\n"


def metadata(facts: Report, recipe: Recipe, base: NamedModel, name: str, origin: Origin | None) -> dict[str, Any]:
    """The card's metadata: languages and results, and the models and data sets that it was made from, on the Hub."""
    datasets = sorted({one for one in map(_hub_dataset, _input_paths(recipe)) if one is not None})
    merge = origin and origin["merge"]
    quantization = origin and origin["quantization"]
    sources = [base, *([merge["chat"]] if merge and merge["chat"] else [])]
    tags = ["continual-pre-training", "reprise", *(["merge"] if merge else [])]
    values: dict[str, Any] = {
        "library_name": "gguf" if quantization in TYPES else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "language": _languages(recipe),
        **_licence(sources),
    }
    if on_hub := list(dict.fromkeys(one["name"] for one in sources if one["on_hub"])):
        values["base_model"] = on_hub[0] if len(on_hub) == 1 else on_hub
        values["base_model_relation"] = "quantized" if quantization else "merge" if merge else "finetune"
    if datasets:
        values["datasets"] = datasets
    if _is_measured(origin) and (results := [*_bits_results(facts), *_benchmark_results(facts)]):
        values["model-index"] = [{"name": name, "results": results}]
    return values


def _is_measured(origin: Origin | None) -> bool:
    """Whether it is the trained model itself, which the run evaluates."""
    return origin is not None and not (origin["checkpoint"] or origin["merge"] or origin["quantization"])


def _licence(sources: Sequence[NamedModel]) -> dict[str, str]:
    """The licence that all source models have; empty if they differ or one is unknown: the text names each."""
    stated: list[dict[str, str]] = [{key: str(one[key]) for key in LICENCE_KEYS if one[key]} for one in sources]
    return stated[0] if "license" in stated[0] and all(one == stated[0] for one in stated) else {}


def _origin_lines(facts: Report, base: NamedModel, origin: Origin | None) -> list[str]:
    """What the model is, in sentences."""
    reprise = f"[Reprise](https://arxiv.org/abs/2407.18743) {facts['run']['version']}"
    trained = f"{_shown(base)}, trained further on {_tokens(facts):,} tokens with {reprise}"
    if origin is None:
        return [f"Made from {trained}. How this model was made from it was not recorded."]
    lines = [f"{trained}."]
    if checkpoint := origin["checkpoint"]:
        of = "the mean of the weights of the checkpoint" if checkpoint["averaged"] else "the checkpoint"
        lines = [
            f"{_shown(base)}, trained further with {reprise}: {of} `{checkpoint['name']}` of training stage "
            f"{checkpoint['stage']}, after {checkpoint['tokens']:,} tokens of that stage. Data and training below are "
            "those of the whole run."
        ]
    elif (merge := origin["merge"]) and merge["chat"] and merge["chat_base"]:
        chat, chat_base, factor = _shown(merge["chat"]), _shown(merge["chat_base"]), f"{merge['factor']:g}"
        how = (
            f"to it was added {factor} times the difference between {chat} and its base {chat_base}"
            if merge["method"] == "residual"
            else f"mergekit's `{merge['method']}` added {chat} with weight {factor}; the base of both is {chat_base}"
        )
        lines = [f"A merge. The first model is {trained}; {how}."]
    elif merge:
        lines = [
            f"A merge. The first model is {trained}; the weights here are {merge['factor']:g} times its weights plus "
            f"{1 - merge['factor']:g} times those of {_shown(base)} itself."
        ]
    if quantization := origin["quantization"]:
        lines += [
            f"Its weights are quantized to {quantization} in a GGUF file."
            if quantization in TYPES
            else "The weights of its linear layers are quantized to 8 bits by torchao."
        ]
    return lines


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


def _verdict_lines(facts: Report, origin: Origin | None) -> list[str]:
    verdict = facts["verdict"]
    if origin is None or origin["checkpoint"]:
        said = "Not measured: the run evaluated its trained model, not this one. `reprise evaluate` measures any model."
        return ["## What it gained and kept", "", said, ""]
    if verdict["provisional"]:
        return ["## What it gained and kept", "", "Not evaluated yet: run `reprise evaluate`.", ""]
    column, lines = "this model", ["## What it gained and kept", ""]
    if not _is_measured(origin):
        change = "merge" if origin["merge"] else "quantization"
        column, lines = "trained model", ["## What the trained model gained and kept", ""]
        lines += [f"Measured on the trained model before the {change}, not on the model in this folder.", ""]
    lines += [verdict["headline"] or "", ""]
    lines += [f"| measure | base | {column} | change | 95 % interval | verdict |", "|---|---|---|---|---|---|"]
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


def _base_lines(base: NamedModel, origin: Origin | None) -> list[str]:
    lines = ["## Base model", "", f"{_shown(base)}; {_said_licence(base)}. The licence of the base model applies.", ""]
    if (merge := origin and origin["merge"]) and (chat := merge["chat"]):
        lines += ["## Chat model", "", f"{_shown(chat)}; {_said_licence(chat)}. Its licence applies too.", ""]
    return lines


def _said_licence(model: NamedModel) -> str:
    if model["license"] is None:
        return "its licence is stated where it was published"
    known = ", ".join(part for part in (model["license_name"], model["license_link"]) if part)
    return f"its card names the licence `{model['license']}`{f' ({known})' if known else ''}"


def _vocabulary_lines(facts: Report) -> list[str]:
    """Section about tokens that were added to the base model's vocabulary."""
    vocabulary = facts["vocabulary"]
    if vocabulary is None:
        return []
    lines = [
        "## Vocabulary", "",
        f"{vocabulary['tokens_added']:,} tokens were added, learned from {vocabulary['bytes_learned_from'] / 1e6:,.3g} "
        f"MB of the training text; their ids begin at {vocabulary['first_id']}, and every token of the base model "
        "keeps its own. Bits per byte do not depend on the vocabulary.", "",
        "| language | bytes per token, base model | this model |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {row['language']} | {row['before']:.2f} | {row['after']:.2f} |" for row in vocabulary["compression"]]
    return [*lines, ""]


def _shown(model: NamedModel) -> str:
    """Name of a model, with a link if it is on the Hub."""
    if not model["on_hub"]:
        return model["name"]
    revision = f" at {model['revision']}" if model["revision"] else ""
    return f"[{model['name']}](https://huggingface.co/{model['name']}){revision}"


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


def _repeat_lines(facts: Report, recipe: Recipe, origin: Origin | None) -> list[str]:
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
        *_commands(origin),
    ]


def _commands(origin: Origin | None) -> list[str]:
    """The command that made the model from the run."""
    if origin is None:
        return []
    if checkpoint := origin["checkpoint"]:
        averaged = " --averaged" if checkpoint["averaged"] else ""
        return ["", f"Then `reprise export RUN RUN/.../{checkpoint['name']}{averaged}`."]
    if merge := origin["merge"]:
        options = f"--factor {merge['factor']:g}"
        if merge["chat"] and merge["chat_base"]:
            options = f"--chat {merge['chat']['name']} --base {merge['chat_base']['name']} {options}"
            options += "" if merge["method"] == "residual" else f" --method {merge['method']}"
        return ["", f"Then `reprise merge RUN {options}`."]
    return []


def _without_folders(value: Any) -> Any:
    """Settings with paths of this machine reduced to their last part."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    is_folder = isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or Path(value).is_dir())
    return Path(value).name if is_folder else value
