"""Report what a recipe's languages lack (prompts, labels, thresholds) before the work begins."""

from collections.abc import Iterator
from itertools import islice

from reprise.documents.label.llm_labels import load_prompt as load_label_prompt
from reprise.documents.language import detect_languages
from reprise.documents.read.files import find_files
from reprise.documents.read.records import Record, read_records
from reprise.errors import Finding, UserError
from reprise.recipe.languages.packs import load_pack
from reprise.recipe.recipe import Recipe
from reprise.synthesis.prompts import load_prompt

_LOOKED_AT = 20
"""Documents of each input that are examined."""


def check_languages(recipe: Recipe) -> Iterator[Finding]:
    """Yield a finding for everything that one of the recipe's languages needs but lacks."""
    yield from _check_synthesis(recipe)
    pairs = {
        (entry.language, source)
        for stage in recipe.stages
        for entry in stage.mixture.values()
        for source, share in entry.sources.items()
        if share
    }
    yield from _check_topics(recipe, pairs)
    clean = recipe.documents.clean
    for language in sorted({language for language, source in pairs if source in clean.heuristics_sources}):
        if clean.enabled and not clean.rules_of(language).stop_words:
            name = load_pack(language).name
            yield Finding(
                f"there are no thresholds for the language {name!r}: it is cleaned by the rules of all languages alone",
                f"documents.clean.heuristics.{language}",
                "write some, as `reprise clean RECIPE --measure` advises, or a language pack: docs/languages.md",
                "warning",
            )


def _check_synthesis(recipe: Recipe) -> Iterator[Finding]:
    synthesis = recipe.synthesis
    if not synthesis.enabled:
        return
    kinds = {kind for kind, share in synthesis.kinds.items() if share} if synthesis.requests else set()
    if synthesis.code.requests:
        kinds.add("code")
    if synthesis.checks.judge is not None:
        kinds.add("judge")
    if synthesis.checks.self_consistency:
        kinds.add("solve")
    for language in synthesis.languages:
        missing = []
        for kind in sorted(kinds):
            try:
                load_prompt(kind, language, synthesis.prompts)
            except UserError as error:
                if not error.what.startswith("there is no prompt"):
                    yield Finding.of(error)
                    return
                missing.append(f"{kind}.{language}.yaml")
        if missing:
            yield Finding(
                f"synthesis in the language {language!r} has no prompt for: {', '.join(missing)}",
                f"synthesis.prompts = {synthesis.prompts}",
                f"write {', '.join(missing)} into a folder and name it, or take it out of synthesis.languages",
            )


def _check_topics(recipe: Recipe, pairs: set[tuple[str, str]]) -> Iterator[Finding]:
    topics = recipe.documents.topics
    split = sorted({language for language, source in pairs if source in recipe.split_sources()})
    if topics.llm is not None:
        for language in split:
            load_label_prompt("topic", language, topics)
    labelled = {entry.constants.get("lang", "") for entry in topics.labelled}
    if topics.llm is None and "" not in labelled:
        for language in sorted(_without_topic(recipe) & set(split) - labelled):
            yield Finding(
                f"text in the language {language!r} is split by topic, but has neither topics nor labels",
                "documents.topics.labelled",
                "name labelled files (fields text, lang, topic), or a language model: documents.topics.llm",
                "warning",
            )


def _without_topic(recipe: Recipe) -> set[str]:
    """Languages of documents without a topic, among the first of each input, in sources that are split by topic."""
    languages: set[str] = set()
    split = recipe.split_sources()
    for index, entry in enumerate(recipe.documents.inputs):
        try:
            file = find_files(entry, f"documents.inputs.{index}.path")[0]
            for record in islice(read_records(file, entry), _LOOKED_AT):
                if isinstance(record, Record) and record.fields["source"] in split and not record.fields["topic"]:
                    languages.add(record.fields["lang"] or detect_languages([str(record.fields["text"])])[0])
        except UserError:
            continue  # the preflight check of the inputs reports it
    return languages
