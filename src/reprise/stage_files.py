"""The user's files that each stage reads, by names that do not depend on their folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reprise.benchmark_files import question_files, set_files
from reprise.documents.read.files import SourceFile, find_files
from reprise.documents.read.remote import is_remote
from reprise.evaluation.benchmarks.external import external, searched_files, task_files
from reprise.model.files import model_files
from reprise.recipe import Recipe
from reprise.recipe.documents import Input, Quality, Topics
from reprise.recipe.generator import Generator


def named_files(prefix: str, paths: Iterable[Path | SourceFile]) -> dict[str, Path | SourceFile]:
    """Name files independently of their location: by `prefix` and the path below their common folder."""
    named = [(file.path if isinstance(file, SourceFile) else str(file), file) for file in paths]
    folders = {os.path.dirname(os.path.abspath(path)) for path, _ in named if not is_remote(path)}  # noqa: PTH100, PTH120
    root = os.path.commonpath(folders) if folders else ""
    return {
        path if is_remote(path) else f"{prefix}/{os.path.relpath(os.path.abspath(path), root)}": file  # noqa: PTH100
        for path, file in named
    }


def input_files(inputs: Sequence[Input], setting: str) -> dict[str, Path | SourceFile]:
    """Files of inputs by name; files in an object store keep their address as name."""
    files: dict[str, Path | SourceFile] = {}
    for index, entry in enumerate(inputs):
        of_entry = find_files(entry, f"{setting}.{index}.path")
        files |= named_files(
            f"{setting}.{index}", [file if is_remote(file.path) else Path(file.path) for file in of_entry]
        )
    return files


def learned_labels(recipe: Recipe) -> list[Topics | Quality]:
    """Settings of the labels that the recipe learns: topics and quality."""
    documents = recipe.documents
    return [documents.topics, *([documents.quality] if documents.quality is not None else [])]


def label_files(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """Labelled files, the user's prompts, and files of the models that learn or write labels."""
    files: dict[str, Path | SourceFile] = {}
    for name, labels in zip(("topics", "quality"), learned_labels(recipe), strict=False):
        files |= input_files(labels.labelled, f"documents.{name}.labelled")
        if labels.classifier == "encoder":
            files |= named_files(f"{name} encoder", _local_model(labels.encoder.model))
        if labels.llm is not None:
            files |= named_files(f"{name} generator", _asked_model(labels.llm.generator, recipe))
            files |= named_files(f"{name} prompts", _prompts(labels.llm.prompts))
    return files


def synthesis_files(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """The user's prompts and problems, files of models that run in this process, and files used to check answers."""
    synthesis = recipe.synthesis
    files = named_files("model", model_files(recipe.model)) | decontamination_files(recipe)
    files |= named_files("prompts", _prompts(synthesis.prompts))
    if synthesis.code.problems is not None:
        files |= named_files(
            "problems", [path for path in [Path(synthesis.code.problems).expanduser()] if path.is_file()]
        )
    for name, generator in (("generator", synthesis.generator), ("judge", synthesis.checks.judge)):
        if generator is not None:
            files |= named_files(name, _asked_model(generator, recipe))
    return files


def _asked_model(generator: Generator, recipe: Recipe) -> list[Path]:
    """Files of a generator's model; none if a server answers."""
    if generator.kind == "openai":
        return []
    return model_files(recipe.model) if generator.model is None else _local_model(generator.model)


def _local_model(path: str | None) -> list[Path]:
    """Files of a model directory; none for a model named on the Hub."""
    return sorted(file for file in Path(path).iterdir() if file.is_file()) if path and Path(path).is_dir() else []


def _prompts(folder: str | None) -> list[Path]:
    """The user's prompt files."""
    return [] if folder is None else sorted(Path(folder).expanduser().glob("*.yaml"))


def decontamination_files(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """Files of benchmark questions to search for in documents."""
    settings = recipe.documents.decontaminate
    if not settings.enabled:
        return {}
    evaluation = recipe.evaluation
    files = question_files(evaluation.question_folders(), evaluation.data, settings.extra_benchmarks)
    own = {f"benchmarks/{Path(benchmark).name}/{path.name}": path for path, benchmark in files.items()}
    return own | _external_questions(recipe)


def _external_questions(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """Question files of external benchmarks; those of the harness's tasks are written on first use."""
    files = searched_files(external(recipe.evaluation.benchmarks))
    return {f"benchmarks/{benchmark}/questions": path for path, benchmark in files.items()}


def evaluation_files(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """Question files of the evaluated benchmarks (none for those from the Hub), and the chat model to merge."""
    evaluation = recipe.evaluation
    others = _external_questions(recipe) | {
        f"tasks/{name}": path for name, path in task_files(external(evaluation.benchmarks)).items()
    }
    if (chat := evaluation.chat_merge) is not None:
        others |= named_files("chat model", model_files(chat.model))
        others |= named_files("base of the chat model", model_files(chat.base or recipe.model))
    if evaluation.data is None:
        return others
    data = Path(evaluation.data).expanduser()
    return others | {
        f"questions/{folder}/{path.name}": path
        for folder in evaluation.question_folders()
        for path in set_files(data, folder)
        if path.is_file()
    }
