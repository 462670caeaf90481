"""Turn passages, disciplines, languages and kinds into requests, the same requests for the same text."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reprise.errors import UserError
from reprise.generators.generator import Outcome, Request
from reprise.generators.prompts import Prompt
from reprise.progress import console
from reprise.recipe.synthesis import Synthesis
from reprise.synthesis.parsing import Pair
from reprise.synthesis.passages import Disciplines, Passage, choose_passages, discipline_name, find_passages, share_out
from reprise.synthesis.prompts import load_prompt
from reprise.synthesis.records import TaskNotes

_SPARE_PASSAGES = 10_000


@dataclass
class Task:
    """One pair, from its passage to its document."""

    kind: str
    language: str
    discipline: str
    prompt: Prompt
    request: Request
    passage: Passage | None = None
    """The passage that the question is about; None for code."""
    examples: tuple[str, ...] = ()
    """Ids of the example problems in a code prompt."""
    key: str = ""
    outcome: Outcome | None = None
    pair: Pair | None = None
    drop: tuple[str, str] | None = None
    """(reason, detail) once it is dropped, else None."""
    notes: TaskNotes = field(default_factory=TaskNotes)
    """Measurements of the checks, for the provenance."""
    text: str = ""
    """Text of the document."""


def science_tasks(synthesis: Synthesis, rows: Iterable[Mapping[str, Any]]) -> list[Task]:
    """Create the tasks of the science questions.

    Args:
        synthesis: settings of the synthesis.
        rows: rows of the labelled documents.

    Raises:
        UserError: there are no passages, or a prompt is missing.
    """
    prompts = {
        (kind, language): load_prompt(kind, language, synthesis.prompts)
        for kind in synthesis.kinds
        for language in synthesis.languages
    }
    if not synthesis.requests:
        return []
    disciplines = Disciplines(synthesis.disciplines, synthesis.passages.terms, synthesis.passages.topics)
    passages: dict[str, list[Passage]] = defaultdict(list)
    for passage in find_passages(rows, disciplines, synthesis.languages, synthesis.passages):
        bucket = passages[_bucket(passage.language, passage.discipline)]
        bucket.append(passage)
        # A passage not chosen among some is not chosen among more: memory can be bounded without changing the choice.
        if len(bucket) > 2 * synthesis.requests + _SPARE_PASSAGES:
            bucket[:] = choose_passages(bucket, synthesis.requests, synthesis.passages.max_per_origin)
    if not passages:
        raise UserError(
            f"no document gives a passage in {', '.join(synthesis.languages)} of {synthesis.passages.min_chars} to "
            f"{synthesis.passages.max_chars} characters",
            where="synthesis.passages",
            remedy="name other sources or languages, or allow shorter passages",
        )
    parts = [_bucket(language, name) for language in synthesis.languages for name in synthesis.disciplines]
    chosen = {
        part: choose_passages(passages[part], synthesis.requests, synthesis.passages.max_per_origin) for part in parts
    }
    repeats = synthesis.passages.requests_per_passage
    num_requests = share_out(
        synthesis.requests, parts, {part: len(part_passages) * repeats for part, part_passages in chosen.items()}
    )
    if sum(num_requests.values()) < synthesis.requests:
        console.print(
            f"[yellow]the documents give passages for {sum(num_requests.values())} of {synthesis.requests} requests: "
            "raise synthesis.passages.requests_per_passage, or read more documents[/yellow]"
        )
    kinds = _Kinds(synthesis.kinds)
    tasks = []
    for part in parts:
        for index in range(num_requests[part]):
            passage = chosen[part][index % len(chosen[part])]
            kind = kinds.next()
            prompt = prompts[kind, passage.language]
            request = _science_request(synthesis, prompt, passage, sample=index // len(chosen[part]))
            tasks.append(Task(kind, passage.language, passage.discipline, prompt, request, passage))
    return tasks


def needs_final(synthesis: Synthesis, kind: str, discipline: str) -> bool:
    """Whether a pair must have a final answer that can be compared."""
    return kind == "multiple_choice" or (kind == "problem" and discipline in synthesis.checks.final_answer)


def _science_request(synthesis: Synthesis, prompt: Prompt, passage: Passage, sample: int) -> Request:
    endings = dict(prompt.endings)
    boxed = passage.discipline in synthesis.checks.final_answer
    return prompt.request(
        max_tokens=synthesis.generator.max_tokens,
        temperature=synthesis.generator.temperature,
        top_p=synthesis.generator.top_p,
        sample=sample,
        text=passage.text,
        discipline=discipline_name(passage.discipline, passage.language),
        ending=endings.get("boxed" if boxed else "free", ""),
    )


def _bucket(language: str, discipline: str) -> str:
    return f"{language}/{discipline}"


class _Kinds:
    """Yields kinds so that their shares are as exact as possible after every request."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = shares
        self._given = dict.fromkeys(shares, 0)

    def next(self) -> str:
        """The kind that is furthest below its share."""
        total = sum(self._given.values()) + 1
        kind = max(self._shares, key=lambda name: self._shares[name] * total - self._given[name])
        self._given[kind] += 1
        return kind
