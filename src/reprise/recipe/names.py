"""Check names that one setting uses and another defines (languages, sources, topics), with "did you mean"."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from reprise.errors import Finding, Severity
from reprise.recipe.documents import ANY_LANGUAGE
from reprise.recipe.mixture import Stage
from reprise.recipe.recipe import Recipe
from reprise.recipe.synthesis import Synthesis

TYPO_CUTOFF = 0.6
"""Smallest similarity (difflib) at which a name is taken for a misspelling."""


@dataclass(frozen=True)
class Corpus:
    """What is known about the text before it is read."""

    pairs: frozenset[tuple[str, str]]
    """(language, source) pairs that some document has."""
    complete: bool
    """Whether there can be no other pairs."""


def check_names(recipe: Recipe, corpus: Corpus) -> Iterator[Finding]:
    """Yield settings that name a language, source or topic that the run does not have.

    A name that could still occur in the text is only a warning, unless it resembles one that does occur.
    """
    pairs = mixture_pairs(recipe) | corpus.pairs
    languages, sources = {language for language, _ in pairs}, {source for _, source in pairs}
    for index, stage in enumerate(recipe.stages):
        yield from _check_stage(f"stages.{index}", stage, recipe)
    documents, synthesis, evaluation = recipe.documents, recipe.synthesis, recipe.evaluation
    by_setting: list[tuple[str, Iterable[str], set[str], str]] = [
        ("documents.clean.heuristics", documents.clean.heuristics.keys() - {ANY_LANGUAGE}, languages, "language"),
        ("documents.clean.personal_data", documents.clean.personal_data.keys() - {ANY_LANGUAGE}, languages, "language"),
        ("documents.topics.lists", _given(documents.topics, "lists"), languages, "language"),
        ("documents.topics.prompts", documents.topics.prompts, languages, "language"),
        ("documents.clean.heuristics_sources", _given(documents.clean, "heuristics_sources"), sources, "source"),
        ("evaluation.sample_prompts", evaluation.sample_prompts, languages, "language"),
    ]
    if recipe.vocabulary is not None:
        trained = {language for language, sources in recipe.vocabulary_shares().items() if sources}
        for name in recipe.vocabulary.languages:
            if name not in trained:
                yield unknown_name(
                    name, {one for one, _ in mixture_pairs(recipe)}, "language of the mixture", "vocabulary.languages"
                )
    if documents.quality is not None:
        by_setting.append(("documents.quality.sources", documents.quality.sources, sources, "source"))
        by_setting.append(("documents.quality.prompts", documents.quality.prompts, languages, "language"))
    if synthesis.enabled:
        by_setting.append(("synthesis.passages.sources", synthesis.passages.sources, sources, "source"))
        yield from _check_synthesis(
            synthesis, {topic for name in languages for topic in documents.topics.list_of(name)}
        )
    for setting, names, known, kind in by_setting:
        for name in sorted(names):
            if name not in known:
                yield unknown_name(name, known, kind, setting, certain=corpus.complete)
    entries = {name for stage in recipe.stages for name in stage.mixture}
    for name in _given(evaluation, "tolerance"):
        entry, _, source = name.partition("/")
        if entry not in languages | entries:
            yield unknown_name(entry, languages | entries, "language", "evaluation.tolerance", certain=corpus.complete)
        elif source and source not in sources:
            yield unknown_name(source, sources, "source", f"evaluation.tolerance.{name}", certain=corpus.complete)


def _check_synthesis(synthesis: Synthesis, topics: Collection[str]) -> Iterator[Finding]:
    """Check the disciplines, languages and topics that the settings of synthesis name.

    Args:
        synthesis: the section, which is enabled.
        topics: topics of the run's languages. Documents may have others, so an unknown name is only a warning.
    """
    passages, disciplines = synthesis.passages, synthesis.disciplines
    for setting, names in (
        ("synthesis.passages.terms", passages.terms),
        ("synthesis.passages.topics", passages.topics),
        ("synthesis.checks.final_answer", _given(synthesis.checks, "final_answer")),
    ):
        for name in names:
            if name not in disciplines:
                yield unknown_name(name, disciplines, "discipline", setting)
    for language in synthesis.templates:
        if language not in synthesis.languages:
            yield unknown_name(language, synthesis.languages, "language", "synthesis.templates")
    for discipline, named in passages.topics.items():
        for topic in named:
            if topic not in topics:
                yield unknown_name(topic, topics, "topic", f"synthesis.passages.topics.{discipline}", certain=False)


def mixture_pairs(recipe: Recipe) -> set[tuple[str, str]]:
    """(language, source) pairs of the text that some stage trains on."""
    return {
        (entry.language, source)
        for stage in recipe.stages
        for name, entry in stage.mixture.items()
        for source in entry.sources
    }


def unknown_name(name: str, known: Collection[str], kind: str, setting: str, *, certain: bool = True) -> Finding:
    """The finding for a name that is not a known one.

    Args:
        name: name in the setting.
        known: valid names.
        kind: what it names, such as `language`.
        setting: dotted name of the setting.
        certain: whether no other name can occur later; if not, a name that resembles no known one is only a warning.
    """
    similar = difflib.get_close_matches(name, known, n=1, cutoff=TYPO_CUTOFF)
    if similar:
        remedy = f"did you mean `{similar[0]}`?"
    else:
        remedy = f"known: {', '.join(sorted(known))}" if known else f"no {kind} is known"
    severity: Severity = "error" if certain or similar else "warning"
    return Finding(f"there is no {kind} `{name}` in this run", setting, remedy, severity)


def _check_stage(where: str, stage: Stage, recipe: Recipe) -> Iterator[Finding]:
    """Check the names in one training stage, which its own mixture defines."""
    sources = {source for entry in stage.mixture.values() for source in entry.sources}
    for key in stage.curriculum:
        entry, _, source = key.partition("/")
        if entry not in stage.mixture:
            yield unknown_name(entry, stage.mixture, "mixture entry", f"{where}.curriculum.{key}")
        elif source and source not in stage.mixture[entry].sources:
            known = stage.mixture[entry].sources
            yield unknown_name(source, known, f"source of {entry}", f"{where}.curriculum.{key}")
    for source in stage.topics.sources:
        if source not in sources:
            yield unknown_name(source, sources, "source", f"{where}.topics.sources")
    yield from _check_topics(where, stage, recipe)


def _check_topics(where: str, stage: Stage, recipe: Recipe) -> Iterator[Finding]:
    """Check topics that the policy names. Documents may have other topics, so an unknown name is only a warning."""
    split = [entry.language for name, entry in stage.mixture.items() if set(entry.sources) & set(stage.topics.sources)]
    known = {topic for language in split for topic in recipe.documents.topics.list_of(language)}
    known |= {entry.constants["topic"] for entry in recipe.documents.inputs if "topic" in entry.constants}
    policy = stage.topics.policy
    for setting in ("topic_weights", "targets"):
        for name in getattr(policy, setting):
            topic = name.rpartition("/")[2]
            if topic not in known:
                yield unknown_name(topic, known, "topic", f"{where}.topics.policy.{setting}", certain=False)


def _given(section: object, setting: str) -> Iterable[str]:
    """The names in a setting that the recipe sets; empty if it has the default."""
    given: set[str] = getattr(section, "model_fields_set", set())
    return tuple(getattr(section, setting) or ()) if setting in given else ()
