"""Send the requests that the journal has no answer to, and show progress."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.generators.generator import Answer, Failure, Generator, Outcome, Request, price
from reprise.generators.journal import Journal, helper_folder
from reprise.processes import Processes, Remote
from reprise.progress import console, track
from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.records import record

if TYPE_CHECKING:
    from reprise.generators.transformers_engine import InProcess

ROUND_PIECES = 4
"""Pieces per process between two checks of their results."""

STOP_AFTER = 20
"""If more than half of at least this many requests have no answer, the stage stops early."""


@record
class Expenses(TypedDict):
    """Requests to the generator and the judge, and their cost."""

    # In the annotation, because a record that inherits these fields shows their meaning too.
    requests: Annotated[int, Field(description="Requests, those answered from the journal included.")]
    from_journal: Annotated[int, Field(description="Requests that the journal answered.")]
    failed: Annotated[int, Field(description="Requests without an answer.")]
    prompt_tokens: Annotated[int, Field(description="Tokens of the prompts.")]
    completion_tokens: Annotated[int, Field(description="Generated tokens.")]
    cost: Annotated[
        float, Field(description="In the currency of the recipe's prices, answers of the journal included.")
    ]


@dataclass
class Spending:
    """Tokens, time and cost of the requests of a run."""

    requests: int = 0
    from_journal: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """Cost of all answers that the run uses, including those in the journal."""

    def add(self, answer: Answer, settings: GeneratorSettings) -> None:
        """Add the tokens and the cost of an answer."""
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.cost += price(answer.prompt_tokens, answer.completion_tokens, settings)

    def record(self) -> Expenses:
        """The current totals."""
        return {
            "requests": self.requests,
            "from_journal": self.from_journal,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
        }


class Asker:
    """A generator with a journal that caches its answers."""

    def __init__(
        self,
        generator: Generator,
        settings: GeneratorSettings,
        journal: Journal,
        spending: Spending | None = None,
        setting: str = "generator",
        processes: Processes | None = None,
    ) -> None:
        """Put a journal in front of a generator.

        Args:
            generator: answers the requests that the journal has no answer to.
            settings: settings of the generator, including its prices.
            journal: answers that exist already; new ones are added.
            spending: totals of earlier requests, to which those of new ones are added; None: start from 0.
            setting: path of the settings in the recipe, for errors.
            processes: the processes that share the requests to a model in this process; None: only this one.

        Raises:
            UserError: vLLM is configured and there are several processes.
        """
        self._processes = processes or Processes()
        if settings.kind == "vllm" and self._processes.world > 1:
            raise UserError(
                "vLLM divides its work over GPUs by itself",
                where=f"{setting}.kind = vllm",
                remedy=f"run the same command without torchrun; {setting}.engine_options has its settings",
            )
        self._generator, self._settings, self._journal = generator, settings, journal
        self._setting = setting
        self.spending = spending or Spending()

    def ask(self, requests: Sequence[Request], what: str) -> list[Outcome]:
        """Return the outcomes in the order of the requests; the journal contains every answer before this returns.

        Raises:
            UserError: more requests failed than the recipe allows, the cost limit was reached, or the server refuses.
        """
        keys = [request.key(self._generator.identity) for request in requests]
        outcomes: dict[str, Outcome] = {}
        for key in keys:
            if key in self._journal and key not in outcomes:
                answer = self._journal[key]
                outcomes[key] = answer
                self.spending.add(answer, self._settings)
        unanswered = {key: request for key, request in zip(keys, requests, strict=True) if key not in outcomes}
        self.spending.requests += len(set(keys))
        self.spending.from_journal += len(outcomes)
        if outcomes and unanswered:
            console.print(f"{what}: {len(outcomes)} answers are in the journal, {len(unanswered)} to go")
        self._ask_new(unanswered, outcomes, what)
        return [outcomes[key] for key in keys]

    def _ask_new(self, unanswered: dict[str, Request], outcomes: dict[str, Outcome], what: str) -> None:
        keys = list(unanswered)
        failed: list[str] = []
        done = 0
        meter = _Meter(self.spending)
        with track(what, len(keys), "requests") as advance:
            for group in self._answers(list(unanswered.values()), keys):
                group = [(index, _writable(outcome)) for index, outcome in group]
                answered = {keys[index]: got for index, got in group if isinstance(got, Answer)}
                self._journal.record({key: got for key, got in answered.items() if key not in self._journal})
                for index, outcome in group:
                    outcomes[keys[index]] = outcome
                    if isinstance(outcome, Answer):
                        self.spending.add(outcome, self._settings)
                    else:
                        failed.append(outcome.reason)
                done += len(group)
                advance(len(group), meter.show(len(failed)))
                self._check_failures(failed, done, len(keys))
        self.spending.failed += len(failed)
        if len(failed) > self._settings.max_failed_share * len(keys):
            self._stop(failed, len(keys))

    def _answers(self, requests: Sequence[Request], keys: Sequence[str]) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield (index of the request, outcome) in groups, as answers arrive."""
        generator, processes = self._generator, self._processes
        if processes.world == 1 or self._settings.kind != "transformers":
            yield from generator.answer(requests, keys, self._budget())
            return
        from reprise.generators.transformers_engine import InProcess  # imports torch

        assert isinstance(generator, InProcess)
        own = partial(_answer_piece, generator, self._journal)
        remote = Remote(generator, partial(_answer_in_helper, self._journal.path.parent))
        pieces = generator.pieces(requests)
        size = ROUND_PIECES * processes.world
        for start in range(0, len(pieces), size):
            asked = pieces[start : start + size]
            work = [([requests[index] for index in piece], [keys[index] for index in piece]) for piece in asked]
            for piece, answers in zip(asked, processes.spread(work, own, remote), strict=True):
                yield list(zip(piece, answers, strict=True))
            for rank in range(1, processes.world):
                self._journal.take_over(helper_folder(self._journal.path.parent, rank))

    def _budget(self) -> float:
        return self._settings.max_cost - self.spending.cost if self._settings.max_cost else math.inf

    def _check_failures(self, failed: list[str], done: int, total: int) -> None:
        if done >= STOP_AFTER and len(failed) > done / 2 and len(failed) > self._settings.max_failed_share * total:
            self._stop(failed, total)

    def _stop(self, failed: list[str], total: int) -> None:
        raise UserError(
            f"{len(failed)} of {total} requests got no answer; the last one: {failed[-1]}",
            where=f"{self._setting}.max_failed_share={self._settings.max_failed_share}",
            remedy="see to the server and run again: what was answered is kept and not asked again",
        )


def _answer_piece(
    generator: "InProcess", journal: Journal, piece: tuple[Sequence[Request], Sequence[str]]
) -> list[Outcome]:
    """Outcomes of a piece, in order; each answer is in the journal as soon as it is complete."""
    requests, keys = piece
    outcomes: list[Outcome] = [Failure("not asked")] * len(requests)
    for group in generator.answer_piece(requests, keys):
        written = [(index, _writable(answer)) for index, answer in group]
        journal.record({keys[index]: got for index, got in written if isinstance(got, Answer)})
        for index, outcome in written:
            outcomes[index] = outcome
    return outcomes


def _answer_in_helper(
    folder: Path, generator: "InProcess", piece: tuple[Sequence[Request], Sequence[str]]
) -> list[Outcome]:
    """Like `_answer_piece`, with a journal of this process, which the first process takes over later."""
    import torch.distributed

    with closing(Journal(helper_folder(folder, torch.distributed.get_rank()))) as journal:
        return _answer_piece(generator, journal, piece)


def _writable(outcome: Outcome) -> Outcome:
    """The outcome, or a failure if the answer contains a lone surrogate, which no file can contain."""
    if isinstance(outcome, Answer):
        try:
            outcome.text.encode()
        except UnicodeEncodeError:
            return Failure("the answer holds a lone surrogate")
    return outcome


class _Meter:
    """Tokens, speed and cost of the new answers of one call, shown beside the progress bar."""

    def __init__(self, spending: Spending) -> None:
        self._spending, self._before, self._start = spending, spending.completion_tokens, time.monotonic()

    def show(self, failed: int) -> str:
        """`1,200 tokens (40/s), cost 0.12, 3 failed`; cost and failures only if they are not 0."""
        tokens = self._spending.completion_tokens - self._before
        text = f"{tokens:,} tokens ({tokens / max(time.monotonic() - self._start, 1e-3):,.0f}/s)"
        if self._spending.cost:
            text += f", cost {self._spending.cost:,.2f}"
        return text + (f", {failed} failed" if failed else "")
