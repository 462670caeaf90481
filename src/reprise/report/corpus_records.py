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
    """Documents that the stage wrote."""
    dropped: int
    """Documents that the stage dropped."""


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
    """File and line that the document was read from."""
    detail: str | None
    """Measured value that the rule judged."""
    excerpt: str
    """First characters of the text."""


@record
class DropFacts(TypedDict):
    """Documents that a stage dropped for one reason."""

    stage: str
    """Name of the stage."""
    reason: str
    """Rule that dropped them."""
    documents: int
    """Dropped documents."""
    languages: dict[str, int]
    """Language -> dropped documents, most frequent first."""
    examples: list[DropExample]
    """Some of the dropped documents."""


@record
class RejectExample(TypedDict):
    """A document that could not be read."""

    file: str
    """Its file."""
    line: int | str | None
    """Line or record in the file."""
    excerpt: str
    """First characters of the record."""


@record
class RejectFacts(TypedDict):
    """Documents that could not be read, for one reason."""

    reason: str
    """What is wrong with them."""
    documents: int
    """Rejected documents."""
    examples: list[RejectExample]
    """Some of the rejected documents."""


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
    """Training documents."""
    valid: int
    """Held-out documents."""


@record
class PerplexityFacts(TypedDict):
    """Distribution of the perplexity of the training documents of a language and source."""

    language: str
    """Language."""
    source: str
    """Source."""
    documents: int
    """Scored documents."""
    quantiles: dict[str, float]
    """Quantile, such as `0.5` -> perplexity."""
    bin_edges: list[float]
    """Edges of log-spaced bins; the first and last bin include the documents beyond them."""
    bin_documents: list[int]
    """Documents in each bin."""


@record
class GradeFacts(TypedDict):
    """Accuracy of the quality classifier, measured on labels that it was not fitted on."""

    language: str
    """Language of the documents."""
    figures: GradeFigures
    """Its accuracy."""


@record
class CorpusFacts(TypedDict):
    """The text of a run: what the document stages did."""

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
    """Accuracy of the quality classifier, one entry per language it was fitted for."""


@record
class OrderRow(TypedDict):
    """Order in which a training stage reads the documents of a source."""

    stage: int
    """Training stage, counted from 1."""
    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    scored: bool
    """Whether the order depends on perplexities."""
    by: str
    """`curriculum.by` of the recipe."""
    order: str
    """`curriculum.order`."""
    segments: int
    """`curriculum.segments`."""
    drop_below: float
    """`curriculum.drop_below`: quantile of perplexity below which documents are skipped."""
    drop_above: float
    """`curriculum.drop_above`: quantile of perplexity above which documents are skipped."""


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
    """Median perplexity in 40 equal parts of the epoch's tokens; null for a part without the middle of a document."""
