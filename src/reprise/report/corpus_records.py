"""The records of a report about its text: flow, drops, perplexity, grades, and the order of the documents."""

from typing_extensions import TypedDict

from reprise.documents.label.records import GradeFigures
from reprise.records import record


@record
class FlowRow(TypedDict):
    """Documents that passed a stage."""

    stage: str
    """Name of the stage."""
    documents: int
    """Documents that it wrote."""
    dropped: int
    """Documents that it dropped."""


@record
class DropExample(TypedDict):
    """A dropped document."""

    id: str
    """Its id."""
    lang: str | None
    """Its language."""
    source: str | None
    """Its source."""
    origin: str | None
    """File and line."""
    detail: str | None
    """What was measured."""
    excerpt: str
    """Its first characters."""


@record
class DropFacts(TypedDict):
    """Documents that a stage dropped for one reason."""

    stage: str
    """Name of the stage."""
    reason: str
    """Name of the rule."""
    documents: int
    """Dropped documents."""
    languages: dict[str, int]
    """Language -> dropped documents, most frequent first."""
    examples: list[DropExample]
    """A few of them."""


@record
class RejectExample(TypedDict):
    """A document that could not be read."""

    file: str
    """Its file."""
    line: int | str | None
    """Line or record of the file."""
    excerpt: str
    """Its first characters."""


@record
class RejectFacts(TypedDict):
    """Documents that could not be read, for one reason."""

    reason: str
    """What is wrong with them."""
    documents: int
    """Rejected documents."""
    examples: list[RejectExample]
    """A few of them."""


@record
class BucketDocuments(TypedDict):
    """Documents of one bucket."""

    language: str
    """Language."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if it was not labelled."""
    train: int
    """Documents to train on."""
    valid: int
    """Held-out documents."""


@record
class PerplexityFacts(TypedDict):
    """Distribution of the training documents' perplexity."""

    language: str
    """Language."""
    source: str
    """Source."""
    documents: int
    """Scored documents."""
    quantiles: dict[str, float]
    """Share, such as `0.5` -> perplexity."""
    bin_edges: list[float]
    """Edges of log-spaced bins; the outer bins also hold what is beyond them."""
    bin_documents: list[int]
    """Documents in each bin."""


@record
class GradeFacts(TypedDict):
    """Quality of the classifier of grades, measured on labels that it was not fitted on."""

    language: str
    """Language of the documents."""
    figures: GradeFigures
    """How right it is."""


@record
class CorpusFacts(TypedDict):
    """What the document stages did."""

    flow: list[FlowRow]
    """Documents after each published stage."""
    drops: list[DropFacts]
    """Drops by stage and reason."""
    rejects: list[RejectFacts]
    """Unreadable documents by reason."""
    buckets: list[BucketDocuments]
    """Documents of each bucket after the last published stage."""
    perplexity: list[PerplexityFacts]
    """Perplexity of each language and source that was scored."""
    grades: list[GradeFacts]
    """Measured quality of the grades, one entry for each language that was learned."""


@record
class OrderRow(TypedDict):
    """In which order a stage takes the documents of a source."""

    stage: int
    """Training stage, counted from 1."""
    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    scored: bool
    """Whether the order needs perplexities."""
    by: str
    """`curriculum.by` of the recipe."""
    order: str
    """`curriculum.order`."""
    segments: int
    """`curriculum.segments`."""
    drop_below: float
    """`curriculum.drop_below`: quantile of perplexity under which documents are skipped."""
    drop_above: float
    """`curriculum.drop_above`: quantile over which documents are skipped."""


@record
class OrderCurve(TypedDict):
    """Perplexity along the first epoch of a source."""

    stage: int
    """Training stage, counted from 1."""
    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    median_ppl: list[float | None]
    """Median perplexity in equal parts of the epoch's tokens; null if no document of its own lies in one."""
