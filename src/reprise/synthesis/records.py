"""Records of the stage `synthesize`: counts, `funnel.json`, `samples.json` and the lines of `provenance.jsonl`."""

from typing import NotRequired

from typing_extensions import TypedDict

from reprise.generators.cached import Expenses
from reprise.generators.generator import ModelIdentity
from reprise.records import record


@record
class SynthesisCounts(Expenses):
    """Counts of the stage `synthesize`, for its manifest."""

    documents_in: int
    """Requests for documents."""
    documents_out: int
    """Documents that were written."""
    dropped: int
    """Requests that did not yield a document."""
    dropped_by_reason: dict[str, int]
    """Reason -> requests, most frequent first."""


@record
class FunnelCounts(TypedDict):
    """Pairs that remain after each step, for all disciplines or for one."""

    requests: int
    """Pairs that were requested."""
    answered: int
    """Requests with an answer."""
    parsed: int
    """Answers that were parsed as a pair."""
    kept: int
    """Pairs that became documents."""
    dropped: dict[str, int]
    """Reason -> pairs, most frequent first."""


@record
class Funnel(TypedDict):
    """Counts from requests to documents."""

    total: FunnelCounts
    """Counts of all disciplines together."""
    disciplines: dict[str, FunnelCounts]
    """Discipline -> its counts."""
    spending: Expenses
    """Tokens and cost of the requests."""


@record
class SyntheticSample(TypedDict):
    """A pair shown in the report."""

    id: str
    """Id of the pair's document."""
    discipline: str
    """Discipline of the pair, or `code`."""
    language: str
    """Language of the pair."""
    kind: str
    """Kind of question."""
    passage: str
    """Text that the question was asked about; empty for code."""
    text: str
    """The document; for a dropped pair the answer."""
    reason: str | None
    """Why it was dropped; null if it was kept."""
    detail: str | None
    """The measured value and the limit of the check; null if it was kept."""


@record
class SyntheticSamples(TypedDict):
    """A few kept and a few dropped pairs, selected by hash."""

    kept: list[SyntheticSample]
    """Pairs that became documents."""
    dropped: list[SyntheticSample]
    """Pairs that a check dropped."""


@record
class PassageOrigin(TypedDict):
    """The passage that a question was asked about."""

    id: str
    """Id of the passage's document."""
    passage: int
    """Index of the passage in the document."""
    origin: str
    """File and line of the passage's document."""


@record
class Sampling(TypedDict):
    """Sampling settings of an answer."""

    temperature: float
    """Sampling temperature; 0 is greedy."""
    top_p: float
    """Nucleus sampling: probability mass of the tokens that are sampled from."""
    max_tokens: int
    """Longest answer in tokens."""
    sample: int
    """Index of the answer among those to the same prompt."""


@record
class Corruption(TypedDict):
    """A final answer that was made wrong on purpose (`synthesis.error_rate`)."""

    right: str | None
    """Final answer of the generator."""
    wrong: str
    """Final answer in the document."""


class TaskNotes(TypedDict, total=False):
    """Measurements of the checks, written to the provenance under the same names."""

    agreement: float
    grade: int
    verified: bool
    mutation_score: float | None
    corrupted: Corruption
    form: int


@record
class Provenance(TypedDict):
    """The provenance of one synthetic document."""

    id: str
    """Id of the document."""
    kept: bool
    """Whether it became a document."""
    reason: str | None
    """Why it was dropped; null if it was kept."""
    discipline: str
    """Discipline of the pair, or `code`."""
    language: str
    """Language of the pair."""
    kind: str
    """Kind of question."""
    passage: PassageOrigin | None
    """The passage that the question was asked about; null for code."""
    examples: list[str]
    """Ids of the example problems in a code prompt."""
    prompt: str
    """Name and version of the prompt."""
    model: ModelIdentity
    """The generator's model."""
    sampling: Sampling
    """Settings with which the answer was sampled."""
    agreement: NotRequired[float]
    """Share of further solutions with the same final result; only if this was checked."""
    grade: NotRequired[int]
    """Grade by the judge; only if there is a judge."""
    verified: NotRequired[bool]
    """Whether the program passed its tests; only for code."""
    mutation_score: NotRequired[float | None]
    """Share of mutated programs that the tests reject; only for code that ran."""
    corrupted: NotRequired[Corruption]
    """The replaced final answer; only if it was made wrong."""
    form: NotRequired[int]
    """Index of the template of the plain text; only for kept pairs that have a question."""
