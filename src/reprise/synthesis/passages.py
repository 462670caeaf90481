"""Choose passages for questions: sorted into disciplines, the best first, alternating between topics and files.

A passage belongs to the discipline with most of its words, provided that it contains at least two different ones and
these are at least one in `_RAREST` words; else to `general education`, or to no discipline if the recipe does not
list that. If the document's topic belongs to known disciplines, only these are considered, and one word is enough.
"""

import heapq
import importlib.resources
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict

import xxhash

from reprise.errors import UserError
from reprise.recipe.languages.codes import WITHOUT_SPACES
from reprise.recipe.synthesis import Passages
from reprise.yaml_text import read_yaml

CATCH_ALL = "general education"
_RAREST = 60
_LOOKED_AT = 8000
"""Characters of a document that decide the discipline of its passages that cannot be assigned by themselves."""
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_TERM_WEIGHT_LIMIT = 3
"""Most occurrences of a word that count, so that repeating one word does not make a passage more typical."""


@dataclass(frozen=True)
class Passage:
    """A passage of a document, with its discipline and quality."""

    document_id: str
    index: int
    """Index of the passage in the document, from 0."""
    text: str
    language: str
    discipline: str
    origin: str
    topic: str | None
    quality: float


class _Discipline(TypedDict, total=False):
    """An entry of disciplines.yaml."""

    names: dict[str, str]
    """Language -> name in prompts."""
    topics: list[str]
    """Topics that belong to the discipline."""
    terms: dict[str, list[str]]
    """Language -> words that distinguish it from others."""


@cache
def _ours() -> dict[str, _Discipline]:
    data = (importlib.resources.files("reprise.synthesis") / "disciplines.yaml").read_text(encoding="utf-8")
    return dict(read_yaml(data))


def discipline_name(discipline: str, language: str) -> str:
    """Name of the discipline in a language, as used in prompts; `discipline` itself if no name is known."""
    return _ours().get(discipline, _Discipline()).get("names", {}).get(language, discipline)


class Disciplines:
    """Finds the discipline of a passage by its words."""

    def __init__(
        self,
        disciplines: Sequence[str],
        own_terms: Mapping[str, Mapping[str, Sequence[str]]],
        own_topics: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Collect the words and the topics of each discipline.

        Raises:
            UserError: there are no words for a discipline in any language.
        """
        self._terms: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._topics: dict[str, set[str]] = defaultdict(set)
        self._catch_all = CATCH_ALL in disciplines
        for discipline in {*_ours(), *disciplines}:  # the topics of a discipline that is not listed belong to no other
            for topic in [
                *_ours().get(discipline, _Discipline()).get("topics", []),
                *(own_topics or {}).get(discipline, []),
            ]:
                self._topics[topic.casefold()].add(discipline)
        for discipline in disciplines:
            known = _ours().get(discipline, _Discipline()).get("terms", {})
            own = own_terms.get(discipline, {})
            if discipline != CATCH_ALL and not known and not own:
                raise UserError(
                    f"there are no words that distinguish the discipline {discipline!r} from others",
                    where="synthesis.disciplines",
                    remedy=f"name some: synthesis.passages.terms: {{{discipline}: {{en: [...]}}}}",
                )
            for language in {*known, *own}:
                for term in [*known.get(language, []), *own.get(language, [])]:
                    self._terms[language][term.lower()].add(discipline)

    def of(self, text: str, language: str, topic: str | None = None) -> str | None:
        """The discipline of a passage, or None.

        Args:
            text: text of the passage.
            language: language of the passage.
            topic: topic of its document; None if it has none.
        """
        scores, kinds, length = self._score(text, language)
        of_topic = self._topics.get((topic or "").casefold(), set())
        if of_topic:
            scores = {name: score for name, score in scores.items() if name in of_topic or name not in _ours()}
        best = max(scores, key=lambda name: (scores[name], name), default=None)
        if best is not None and (best in of_topic or (kinds[best] >= 2 and scores[best] * _RAREST >= length)):
            return best
        return CATCH_ALL if self._catch_all else None

    def _score(self, text: str, language: str) -> tuple[dict[str, float], Mapping[str, int], float]:
        """Weighted word count of each discipline, count of its different words, and words in the text."""
        terms = self._terms.get(language, {})
        lowered = text.lower()
        if language in WITHOUT_SPACES:
            counts = Counter({term: lowered.count(term) for term in terms if term in lowered})
            length = len(lowered) / 2
        else:
            words = _WORD.findall(lowered)
            counts = Counter(word for word in words if word in terms)
            length = len(words)
        scores: dict[str, float] = defaultdict(float)
        kinds: Counter[str] = Counter()
        for term, count in counts.items():
            owners = terms[term]
            for discipline in owners:
                scores[discipline] += min(count, _TERM_WEIGHT_LIMIT) / len(owners)
                kinds[discipline] += 1
        return scores, kinds, length


def cut_passages(text: str, min_chars: int, max_chars: int) -> list[str]:
    """Cut a text between paragraphs or sentences into passages of `min_chars` to `max_chars` characters."""
    passages: list[str] = []
    held = ""
    for paragraph in text.split("\n\n"):
        pieces = [paragraph] if len(paragraph) <= max_chars else _SENTENCE_END.split(paragraph)
        for index, piece in enumerate(pieces):
            joint = "\n\n" if index == 0 else " " if piece[:1].isascii() else ""
            if held and len(held) + len(joint) + len(piece) > max_chars:
                passages.append(held)
                held = piece
            else:
                held = held + joint + piece if held else piece
    passages.append(held)
    stripped = (passage.strip() for passage in passages)
    return [passage for passage in stripped if min_chars <= len(passage) <= max_chars]


def quality_of(text: str) -> float:
    """Estimate how much of a passage is prose, from 0 to 1. Lists, tables, code and menus get low values.

    The product of the share of letters, the share of lines that end a sentence, and the variety of words.
    """
    letters = sum(char.isalpha() or char.isspace() for char in text) / len(text)
    lines = [line for line in text.splitlines() if line.strip()]
    ended = sum(line.rstrip()[-1] in '.!?。！？”"）)' for line in lines) / len(lines)
    tokens = _WORD.findall(text.lower()) if " " in text else list(text)
    variety = min(1.0, 2.0 * len(set(tokens)) / max(1, len(tokens)))
    return letters * (0.2 + 0.8 * ended) * variety


def find_passages(
    rows: Iterable[Mapping[str, Any]], disciplines: Disciplines, languages: Sequence[str], settings: Passages
) -> Iterator[Passage]:
    """Yield every passage that can be used for a question; held-out documents are skipped: they must not be trained on.

    Args:
        rows: documents with id, text, lang, source, topic, split, origin.
        disciplines: finds the discipline of each passage.
        languages: languages of the questions.
        settings: settings of the passages.
    """
    for row in rows:
        is_source = (
            row["source"] in settings.sources if settings.sources else row["source"] not in ("code", "synthetic")
        )
        if not is_source or row["split"] != "train" or row["lang"] not in languages:
            continue
        whole = disciplines.of(row["text"][:_LOOKED_AT], row["lang"], row["topic"])
        for index, passage in enumerate(cut_passages(row["text"], settings.min_chars, settings.max_chars)):
            discipline = disciplines.of(passage, row["lang"], row["topic"])
            if discipline is None or discipline == CATCH_ALL:
                discipline = whole
            if discipline is not None:
                yield Passage(
                    row["id"], index, passage, row["lang"], discipline, row["origin"], row["topic"], quality_of(passage)
                )


def choose_passages(passages: Iterable[Passage], count: int, max_per_origin: int) -> list[Passage]:
    """Choose at most `count` passages of one language and discipline, whatever the order of the input.

    Topics and origins (files) alternate, and so do documents within them; the best passages of each are chosen first.
    """
    grouped: dict[tuple[str, str], dict[str, list[Passage]]] = defaultdict(lambda: defaultdict(list))
    for passage in passages:
        origin = passage.origin.rpartition(":")[0] or passage.origin
        grouped[passage.topic or "", origin][passage.document_id].append(passage)
    ordered: dict[tuple[str, str], list[Passage]] = {}
    for group, documents in grouped.items():
        turns: list[tuple[int, float, str, Passage]] = []
        for document_id, passages in documents.items():
            passages.sort(key=lambda passage: (-passage.quality, passage.index))
            tie = xxhash.xxh3_64_hexdigest(document_id.encode())
            turns += [(turn, -passage.quality, tie, passage) for turn, passage in enumerate(passages)]
        turns.sort(key=lambda entry: entry[:3])
        ordered[group] = [entry[3] for entry in turns]
    queue = [(0, xxhash.xxh3_64_hexdigest("\0".join(group).encode()), group) for group in ordered]
    heapq.heapify(queue)
    chosen: list[Passage] = []
    taken: Counter[str] = Counter()
    while queue and len(chosen) < count:
        turn, tie, group = heapq.heappop(queue)
        if max_per_origin and taken[group[1]] >= max_per_origin:
            continue
        taken[group[1]] += 1
        chosen.append(ordered[group][turn])
        if turn + 1 < len(ordered[group]):
            heapq.heappush(queue, (turn + 1, tie, group))
    return chosen


def share_out(total: int, parts: Sequence[str], available: Mapping[str, int]) -> dict[str, int]:
    """Split a total evenly over parts, but to none more than it has; the remainder is given to other parts.

    The sum of the result is `total`, or everything that is available if that is less.
    """
    given = dict.fromkeys(parts, 0)
    left = min(total, sum(available.get(part, 0) for part in parts))
    while left:
        hungry = [part for part in parts if given[part] < available.get(part, 0)]
        each = max(1, math.floor(left / len(hungry)))
        for part in hungry:
            more = min(each, available.get(part, 0) - given[part], left)
            given[part] += more
            left -= more
    return given
