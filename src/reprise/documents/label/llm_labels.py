"""Labels by a language model: one topic or one grade for each document in a sample of each source.

    asked.jsonl    one object per document: hash (of the text), lang, source, origin, topic (null: none), reason, answer
    graded.jsonl   the same with `grade`, 0 (worst) to 5, instead of the topic

Answers are kept in the journal of `work.cache`, keyed by the content of the request, so that no request is repeated.
"""

import functools
import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprise.documents.label.records import AskedFigures
from reprise.documents.label.training_set import Labelled, ListOf
from reprise.documents.table import hash_text, read_table
from reprise.errors import UserError
from reprise.generators.cached import Asker
from reprise.generators.generator import Answer, Outcome, Request
from reprise.generators.journal import Journal
from reprise.generators.open import open_generator
from reprise.generators.prompts import Prompt, find_prompt
from reprise.recipe.documents import Llm, Quality, Topics
from reprise.recipe.languages.packs import load_pack
from reprise.recipe.model import Model
from reprise.workspace import Work

FILE = "asked.jsonl"
GRADED = "graded.jsonl"

GRADES = ("0", "1", "2", "3", "4", "5")
"""From worst to best."""

_EXCERPT_CHARS = 200
_NUMBER = re.compile(r"^\(?(\d{1,3})\s*[.):：、]?\s*")
_AROUND = " \t\r\n*_`'\"“”‘’「」《》.。-"


@dataclass(frozen=True)
class Asked:
    """A document in the sample."""

    hash: str
    text: str
    lang: str
    source: str
    origin: str


def ask_topics(
    work: Work, documents: Path, topics: Topics, split_sources: Sequence[str], model: Model, known: dict[str, Labelled]
) -> dict[str, AskedFigures]:
    """Ask for the topics of a sample; write `asked.jsonl` and add the labels to `known`.

    Args:
        work: the stage; the totals are added to its `counts`.
        documents: table of the stage that precedes `label`.
        topics: settings with `llm`.
        split_sources: sources whose documents need a topic.
        model: base model of the recipe, used if the generator names none.
        known: language -> labelled texts; the new labels are added to it.

    Returns:
        language -> what was asked and answered, for the report.

    Raises:
        UserError: the generator refuses or costs too much, or no answer in a language names a topic.
    """
    assert topics.llm is not None
    sample = choose_sample(documents, set(split_sources), topics.llm.sample_per_source)
    question = _Question("topic", topics, topics.llm, FILE, topics.list_of, parse_topic)
    return _ask(work, sample, question, model, known)


def ask_grades(
    work: Work, documents: Path, quality: Quality, model: Model, known: dict[str, Labelled]
) -> dict[str, AskedFigures]:
    """Ask for the grades of a sample; write `graded.jsonl` and add the grades to `known`.

    Arguments, result and errors are those of `ask_topics`; documents that carry a topic are included in the sample.
    """
    assert quality.llm is not None
    sample = choose_sample(documents, set(quality.sources), quality.llm.sample_per_source, any_topic=True)
    question = _Question(
        "grade", quality, quality.llm, GRADED, lambda _: GRADES, lambda outcome, _: parse_grade(outcome)
    )
    return _ask(work, sample, question, model, known)


@dataclass(frozen=True)
class _Question:
    """The question that is asked about each document of a sample."""

    task: str
    """`topic` or `grade`: name of the prompt, and of the field in the file of answers."""
    settings: Topics | Quality
    llm: Llm
    file: str
    choices: ListOf
    """Language -> the possible answers."""
    parse: Callable[[Outcome, Sequence[str]], tuple[str | None, str]]
    """The choice that an answer names, or None and the reason."""

    @property
    def setting(self) -> str:
        """Dotted name of the section of the settings."""
        return f"{_section(self.settings)}.llm"


def _section(settings: Topics | Quality) -> str:
    return "documents.topics" if isinstance(settings, Topics) else "documents.quality"


def _ask(
    work: Work, sample: Mapping[str, list[Asked]], question: _Question, model: Model, known: dict[str, Labelled]
) -> dict[str, AskedFigures]:
    """Ask about a sample; write the file of answers, add the labels to `known` and the totals to the counts."""
    llm, setting = question.llm, f"{question.setting}.generator"
    report: dict[str, AskedFigures] = {}
    with (
        closing(Journal(work.cache)) as journal,
        closing(open_generator(llm.generator, model, setting)) as generator,
        (work.output / question.file).open("w", encoding="utf-8") as file,
    ):
        asker = Asker(generator, llm.generator, journal, setting=setting, processes=work.processes)
        for lang, chosen in sorted(sample.items()):
            prompt, choices = load_prompt(question.task, lang, question.settings), question.choices(lang)
            requests = [label_request(prompt, entry.text, choices, llm) for entry in chosen]
            before = asker.spending.cost
            outcomes = asker.ask(requests, f"{question.task} {lang}")
            unusable = _read_answers(chosen, outcomes, question, choices, known.setdefault(lang, Labelled()), file)
            answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
            report[lang] = {
                "documents": len(chosen),
                "labelled": len(chosen) - unusable.total(),
                "unusable": dict(unusable.most_common()),
                "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
                "completion_tokens": sum(answer.completion_tokens for answer in answers),
                "prompt": prompt.name,
                "cost": asker.spending.cost - before,
            }
            if not known[lang].texts:
                raise UserError(
                    f"none of {len(chosen)} answers about documents of the language {lang!r} names a {question.task}",
                    where=question.setting,
                    remedy=f"look at {work.output / question.file}; take another model or write another prompt",
                )
    work.counts["asked" if question.task == "topic" else "asked_grades"] = asker.spending.record()
    return report


def choose_sample(
    documents: Path, sources: set[str], per_source: int, *, any_topic: bool = False
) -> dict[str, list[Asked]]:
    """Language -> sample of the training documents (unless `any_topic`, of those without a topic): those with the
    smallest
    hash in each source."""
    buckets: dict[tuple[str, str], list[tuple[str, Asked]]] = defaultdict(list)
    for batch in read_table(documents, ["text", "lang", "source", "topic", "split", "origin"]):
        for row in batch.to_pylist():
            if row["source"] in sources and row["split"] == "train" and (any_topic or row["topic"] is None):
                entry = Asked(hash_text(row["text"]), row["text"], row["lang"], row["source"], row["origin"])
                bucket = buckets[entry.lang, entry.source]
                bucket.append((entry.hash, entry))
                if len(bucket) >= 2 * per_source + 1000:
                    bucket[:] = _smallest(per_source, bucket)
    sample: dict[str, list[Asked]] = defaultdict(list)
    for (lang, _), bucket in sorted(buckets.items()):
        sample[lang] += [entry for _, entry in _smallest(per_source, bucket)]
    return dict(sample)


def _smallest(count: int, bucket: Iterable[tuple[str, Asked]]) -> list[tuple[str, Asked]]:
    """The `count` documents with the smallest hashes, each text once."""
    once: dict[str, Asked] = {}
    for key, entry in bucket:
        once[key] = min(once.get(key, entry), entry, key=lambda one: one.origin)
    return heapq.nsmallest(count, once.items(), key=lambda item: item[0])


def label_request(prompt: Prompt, text: str, choices: Sequence[str], llm: Llm) -> Request:
    """The request that asks about a text."""
    return prompt.request(
        max_tokens=llm.generator.max_tokens,
        temperature=llm.generator.temperature,
        top_p=llm.generator.top_p,
        text=text[: llm.max_chars].strip(),
        topics="\n".join(f"{line}. {topic}" for line, topic in enumerate(choices, 1)),
    )


def parse_topic(outcome: Outcome, topics: Sequence[str]) -> tuple[str | None, str]:
    """The topic that an answer names, or None and the reason: `failed`, `cut_off`, `no_topic`, `contradiction`.

    The answer must be one topic of the list and nothing else. Case and quotation marks are ignored; the topic may be
    preceded by its number in the list, or given as this number.
    """
    if not isinstance(outcome, Answer):
        return None, "failed"
    text = " ".join(outcome.text.casefold().split()).strip(_AROUND)
    by_name = {topic.casefold().strip(_AROUND): topic for topic in topics}
    if text in by_name:
        return by_name[text], ""
    match = _NUMBER.match(text)
    if match is None:
        return None, "cut_off" if outcome.finish == "length" else "no_topic"
    index, named = int(match[1]) - 1, text[match.end() :].strip(_AROUND)
    if not 0 <= index < len(topics) or (named and named not in by_name):
        return None, "cut_off" if outcome.finish == "length" else "no_topic"
    if named and by_name[named] != topics[index]:
        return None, "contradiction"
    return topics[index], ""


_GRADE = re.compile(r"(?:\D{0,40}[:：]\s*)?([0-5])(?:\s*/\s*5)?", re.DOTALL)
"""A digit, optionally with a word and a colon before it and `/5` after it."""


def parse_grade(outcome: Outcome) -> tuple[str | None, str]:
    """The grade that an answer gives, or None and the reason: `failed`, `cut_off`, `no_grade`."""
    if not isinstance(outcome, Answer):
        return None, "failed"
    match = _GRADE.fullmatch(outcome.text.strip(_AROUND))
    if match is None:
        return None, "cut_off" if outcome.finish == "length" else "no_grade"
    return match[1], ""


def load_prompt(task: str, lang: str, settings: Topics | Quality) -> Prompt:
    """The prompt of a task in a language, or in English if there is none.

    For each language the first of these is used: TASK.LANGUAGE.yaml in the user's folder, `prompts` in the settings,
    the
    language's pack, the prompts shipped with Reprise.

    Raises:
        UserError: the folder does not exist, or a prompt lacks one of the task's placeholders.
    """
    section = _section(settings)
    for language in (lang, "en"):
        prompt = find_prompt(
            task,
            language,
            folder=settings.llm.prompts if settings.llm is not None else None,
            setting=f"{section}.llm.prompts",
            given=[
                (settings.prompts.get(language, {}).get(task), f"{section}.prompts.{language}.{task}"),
                (load_pack(language).prompts.get(task), f"the language pack {language}"),
            ],
            package="reprise.documents.label",
            placeholders=_PLACEHOLDERS[task],
        )
        if prompt is not None:
            return prompt
    raise AssertionError(f"{task}.en is part of Reprise")


_PLACEHOLDERS = {"topic": ("text", "topics"), "grade": ("text",)}
"""Task -> placeholders that its prompt must contain."""


@functools.lru_cache(maxsize=2)
def read_asked(path: str, task: str = "topic") -> Mapping[str, str]:
    """Hash of a text -> topic or grade that the model gave; empty if none was asked for."""
    if not Path(path).exists():
        return {}
    with Path(path).open(encoding="utf-8") as file:
        return {entry["hash"]: entry[task] for entry in map(json.loads, file) if entry[task]}


def _read_answers(
    chosen: Sequence[Asked],
    outcomes: Sequence[Outcome],
    question: _Question,
    choices: Sequence[str],
    known: Labelled,
    file: Any,
) -> Counter[str]:
    """Write the answers and add their labels to `known`; returns the counts of reasons why others are unusable."""
    taken = set(known.texts)
    unusable: Counter[str] = Counter()
    for entry, outcome in zip(chosen, outcomes, strict=True):
        label, reason = question.parse(outcome, choices)
        shown = outcome.text if isinstance(outcome, Answer) else outcome.reason
        line: dict[str, str | None] = {"hash": entry.hash, "lang": entry.lang}
        line |= {"source": entry.source, "origin": entry.origin}
        line |= {question.task: label, "reason": reason, "answer": shown[:_EXCERPT_CHARS]}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if label is None:
            unusable[reason] += 1
        elif entry.text not in taken:
            known.texts.append(entry.text)
            known.labels.append(label)
    return unusable
