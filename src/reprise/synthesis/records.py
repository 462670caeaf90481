"""Records of the stage `synthesize`: its counts, `funnel.json`, `samples.json` and a line of `provenance.jsonl`."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from reprise.generators.cached import Expenses
from reprise.records import record


@record
class SynthesisCounts(Expenses):
    """Counts of the stage `synthesize`, for its manifest."""

    documents_in: int
    """Requests."""
    documents_out: int
    """Documents that were written."""
    dropped: int
    """Requests that gave none."""
    dropped_by_reason: dict[str, int]
    """Reason -> requests, most frequent first."""


@record
class FunnelCounts(TypedDict):
    """Pairs that each step left, of all disciplines or of one."""

    requests: int
    """Pairs that were asked for."""
    answered: int
    """Requests with an answer."""
    parsed: int
    """Answers that parse as a pair."""
    kept: int
    """Pairs that became documents."""
    dropped: dict[str, int]
    """Reason -> pairs, most frequent first."""


@record
class Funnel(TypedDict):
    """From requests to documents."""

    total: FunnelCounts
    """All disciplines."""
    disciplines: dict[str, FunnelCounts]
    """Each discipline."""
    spending: Expenses
    """What the requests took."""


@record
class SyntheticSample(TypedDict):
    """A pair for a reader."""

    id: str
    """Id of its document."""
    discipline: str
    """Discipline, or `code`."""
    language: str
    """Language of the pair."""
    kind: str
    """Kind of question."""
    passage: str
    """Text that the question was asked about; empty for code."""
    text: str
    """The document; of a dropped pair the answer."""
    reason: str | None
    """Why it was dropped; null if it was kept."""
    detail: str | None
    """What was measured."""


@record
class SyntheticSamples(TypedDict):
    """A few kept and a few dropped pairs, chosen by hash."""

    kept: list[SyntheticSample]
    """Pairs that became documents."""
    dropped: list[SyntheticSample]
    """Pairs that a check dropped."""


@record
class PassageOrigin(TypedDict):
    """The passage that a question was asked about."""

    id: str
    """Id of the document."""
    passage: int
    """Index of the passage in the document."""
    origin: str
    """File and line of the document."""


@record
class Sampling(TypedDict):
    """How the answer was sampled."""

    temperature: float
    """Temperature; 0 is greedy."""
    top_p: float
    """Nucleus."""
    max_tokens: int
    """Longest answer."""
    sample: int
    """Index of this answer among those to the same prompt."""


@record
class Corruption(TypedDict):
    """A final answer that was made wrong on purpose (`synthesis.error_rate`)."""

    right: str | None
    """The answer of the generator."""
    wrong: str
    """What the document says."""


class TaskNotes(TypedDict, total=False):
    """What the checks measured; they go into the provenance under the same names."""

    agreement: float
    grade: int
    verified: bool
    mutation_score: float | None
    corrupted: Corruption
    form: int


@record
class Provenance(TypedDict):
    """Where one synthetic document comes from."""

    id: str
    """Id of the document."""
    kept: bool
    """Whether it became a document."""
    reason: str | None
    """Why it was dropped; null if it was kept."""
    discipline: str
    """Discipline, or `code`."""
    language: str
    """Language of the pair."""
    kind: str
    """Kind of question."""
    passage: PassageOrigin | None
    """What the question was asked about; null for code."""
    examples: list[str]
    """Ids of the problems that a code prompt showed."""
    prompt: str
    """Name and version of the prompt."""
    model: dict[str, Any]
    """Name and identity of the generator."""
    sampling: Sampling
    """Settings of the sampling."""
    agreement: NotRequired[float]
    """Share of the further answers with the same final result; only if it was checked."""
    grade: NotRequired[int]
    """The judge's grade; only with a judge."""
    verified: NotRequired[bool]
    """Whether the program passed its tests; only for code."""
    mutation_score: NotRequired[float | None]
    """Share of mutated programs that the tests reject; only for code that ran."""
    corrupted: NotRequired[Corruption]
    """Only if the final answer was made wrong."""
    form: NotRequired[int]
    """Index of the form of the plain text; only for pairs with a question that were kept."""
