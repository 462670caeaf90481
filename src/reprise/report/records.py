"""The record of a report: what `report.json` contains, and all that its page shows."""

from typing import Annotated, Any, Literal, NotRequired, final

from pydantic import Field
from typing_extensions import TypedDict

from reprise.evaluation.results import BenchmarkRow, BitsRow, CurvePoint, Sample, Untested, Verdict, VerdictWord
from reprise.model.machine import Machine
from reprise.records import record
from reprise.report.integrity import IntegrityFacts
from reprise.synthesis.records import Funnel, SyntheticSamples
from reprise.training.events import StartEvent


@record
class RunFacts(TypedDict):
    """The run itself."""

    name: str
    """Name of the recipe."""
    model: str
    """`model.path`."""
    state: Literal["finished", "not finished", "not begun"]
    """Whether every stage is done."""
    written: str
    """UTC time of this report, ISO 8601."""
    version: str
    """Version of Reprise."""


@record
class StageFacts(TypedDict):
    """One stage of the run."""

    stage: str
    """Name of the stage."""
    state: Literal["done", "unfinished", "missing"]
    """Whether it is published, begun or neither."""
    seconds: float | None
    """Duration; null unless done."""
    finished: str | None
    """UTC time, ISO 8601; null unless done."""
    version: str | None
    """Version of Reprise that made it; null unless done."""
    fingerprint: str | None
    """Hash of all that decides its output; null unless done."""
    last_sign_of_life_s_ago: float | None
    """Seconds since a file of an unfinished stage changed."""
    counts: dict[str, Any]
    """Counts of its manifest."""
    older_input: list[str]
    """Stages that were made again after this one had read them."""


@record
class VerdictPart(TypedDict):
    """A part of the headline."""

    verdict: VerdictWord | Literal["none"]
    """What the part says; `none`: what was not tested."""
    text: str
    """The sentence."""


@record
class ChangeSoFar(TypedDict):
    """Held-out bits per byte before training and at the last validation."""

    path: str
    """Entry, or `entry/source`."""
    entry: str
    """Entry of the mixture, or a language."""
    source: str | None
    """Source; null: all sources of the entry."""
    before: float
    """Bits per byte at the first validation."""
    after: float
    """Bits per byte at the last one."""
    change: float
    """after / before - 1."""
    tolerance: float | None
    """Largest rise that counts as kept; null without one."""


@record
class VerdictFacts(TypedDict):
    """The verdict, or what training's validations say until there is one."""

    provisional: bool
    """Whether the evaluation is missing."""
    headline: str | None
    """One line; null while provisional."""
    parts: list[VerdictPart]
    """The headline in parts."""
    verdicts: list[Verdict]
    """What the evaluation decided."""
    untested: list[Untested]
    """What it did not measure."""
    so_far: list[ChangeSoFar]
    """Changes at the last validation; empty once there is a verdict."""


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
    """Topic; null where it was not labelled."""
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
class GradeBinFacts(TypedDict):
    """Held-out documents that were given about the same grade."""

    given: float
    """Mean of the grades that the classifier gives."""
    true: float
    """Mean of the grades that they were labelled with."""
    documents: int
    """Held-out documents."""


@record
class GradeFacts(TypedDict):
    """Quality of the classifier of grades, measured on labels that it was not fitted on."""

    language: str
    """Language of the documents."""
    classifier: str
    """Kind of the classifier."""
    labels: dict[str, int]
    """Grade -> labelled documents."""
    held_out: int
    """Labelled documents that were held out."""
    mean_error: float
    """Mean distance of given and true grade."""
    error_of_mean: float
    """The same if every document got the mean grade."""
    rank_correlation: float | None
    """Spearman's; null where all have one grade."""
    calibration: list[GradeBinFacts]
    """Given against true grades."""
    min_grade: float
    """`documents.quality.min_grade`."""
    precision: float | None
    """Share of the kept documents whose true grade is at least that; null where none is kept."""
    recall: float | None
    """Share of the documents with such a true grade that are kept; null where there are none."""


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
class BudgetRow(TypedDict):
    """Planned and spent tokens of a bucket."""

    stage: int
    """Training stage, counted from 1."""
    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null where the stage does not split the source."""
    planned: int | None
    """Tokens that the recipe plans; null for a bucket that it does not name."""
    spent: int | None
    """Tokens trained on; null before training."""
    available: int | None
    """Tokens of its documents; null until the stage is finished."""
    epochs: float | None
    """Passes over them; null until the stage is finished."""


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
    """`curriculum.drop_below`: quantile of perplexity under which documents are left out."""
    drop_above: float
    """`curriculum.drop_above`: quantile over which documents are left out."""


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
    """Median perplexity in equal parts of the epoch's tokens; null where no document of its own lies in one."""


@record
class Series(TypedDict):
    """Curves of training over tokens, each averaged over neighbouring steps to at most 600 points."""

    steps_per_point: int
    """Steps that a point averages."""
    tokens: list[int]
    """Tokens of the stage at the last step of each point."""
    loss: list[float | None]
    """Training loss in nats per token."""
    lr: list[float | None]
    """Learning rate."""
    grad_norm: list[float | None]
    """Gradient norm before clipping."""
    tokens_per_s: list[float | None]
    """Tokens per second of all processes."""


@record
class ScoresPoint(TypedDict):
    """Benchmarks while training."""

    tokens: int
    """Tokens of the stage."""
    scores: dict[str, float]
    """Benchmark -> score, 0 to 1."""


@record
class HeldOutValue(TypedDict):
    """Bits per byte of one group of held-out text."""

    entry: str
    """Entry of the mixture, or a language."""
    source: str | None
    """Source; null: all of them."""
    topic: str | None
    """Topic; null: all of them."""
    value: float
    """Bits per byte."""


@record
class ValidationFacts(TypedDict):
    """One validation."""

    tokens: int
    """Tokens of the stage."""
    bits_per_byte: list[HeldOutValue]
    """Entries, their sources and topics."""


@record
class ShareChange(TypedDict):
    """A change of the mixture."""

    tokens: int
    """Tokens of the stage."""
    cause: str
    """A policy, `shares.json`, `recipe`, a guard, or what ran out."""
    path: str
    """What is divided: "" the stage, `zh` its sources, `zh/web` its topics."""
    old: dict[str, float]
    """Child -> share of `path`, before."""
    new: dict[str, float]
    """Child -> share of `path`, after."""


@record
class TrainingEvent(TypedDict):
    """A restart, a guard, or a change of the mixture that its policy did not make."""

    kind: Literal["resume", "guard", "shares"]
    """What happened."""
    step: int
    """Optimizer steps of the stage."""
    tokens: int
    """Tokens of the stage."""
    seconds: float
    """Seconds of the process."""
    detail: dict[str, Any]
    """The other fields of the event in `metrics.jsonl`."""


@record
class SpentRow(TypedDict):
    """Tokens that a stage took from a bucket."""

    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null where the stage does not split the source."""
    spent: int
    """Tokens trained on."""
    available: NotRequired[int]
    """Tokens of its documents; only of a finished stage."""
    epochs: NotRequired[float]
    """Passes over them; only of a finished stage."""
    answer_tokens: NotRequired[int]
    """Of the tokens trained on, those of the answers of conversations, on average; only of a finished stage, and where
    there are conversations."""


@record
class TrainingFacts(TypedDict):
    """One training stage, finished or not."""

    stage: int
    """Counted from 1."""
    name: str
    """Its name in the recipe."""
    tokens_planned: int
    """Tokens of the recipe."""
    tokens: int
    """Tokens so far."""
    steps: int
    """Optimizer steps so far."""
    seconds: float
    """Time at work, of all processes that were started one after another."""
    start: StartEvent | None
    """The last start of the process; null before the first."""
    damaged_lines: int
    """Lines of `metrics.jsonl` that could not be read."""
    series: Series
    """Curves over tokens."""
    benchmarks: list[ScoresPoint]
    """Benchmarks while training."""
    validations: list[ValidationFacts]
    """Held-out text while training."""
    shares: list[ShareChange]
    """Changes of the mixture."""
    events: list[TrainingEvent]
    """Restarts, guards and changes by hand."""
    checkpoints: int
    """Checkpoints that were written."""
    spent: list[SpentRow]
    """Tokens of each bucket; up to the last checkpoint while unfinished."""


@record
class SynthesisFacts(TypedDict):
    """Synthetic text."""

    enabled: bool
    """Whether the recipe makes any."""
    funnel: Funnel | None
    """From requests to documents; null before the stage `synthesize`."""
    samples: SyntheticSamples
    """A few documents and drops."""


@record
class FileFacts(TypedDict):
    """A file that a stage read."""

    file: str
    """Its path."""
    bytes: int
    """Its size."""
    xxh128: str
    """Its checksum."""


@record
class MachineFacts(Machine):
    """What training ran on, as its last process said when it began."""

    processes: Annotated[int, Field(description="Processes of the training.")]


@record
class CostFacts(TypedDict):
    """What training took so far."""

    tokens: int
    """Tokens of all stages."""
    training_flops: float | None
    """FLOPs of forward and backward passes; null where the model's configuration is missing."""
    process_hours: float
    """Hours of all processes."""
    price: float | None
    """At `hardware.price_per_hour`; null without a price."""


@record
class RepeatFacts(TypedDict):
    """What another person needs to get the same numbers."""

    seed: int
    """Random seed."""
    recipe: dict[str, Any]
    """The resolved recipe."""
    files: list[FileFacts]
    """Files that the stages read."""
    machine: MachineFacts | None
    """The machine of the training; null before it began."""
    cost: CostFacts
    """What training took."""
    seconds: float
    """Time of all finished stages."""


@final
@record
class Report(TypedDict):
    """A run, at any moment of it."""

    format: Literal[2]
    """Version of this format."""
    run: RunFacts
    """Name, model, state."""
    stages: list[StageFacts]
    """The stages of the run, in order."""
    verdict: VerdictFacts
    """What was gained, kept and lost."""
    tolerance: dict[str, float]
    """Entry, language or `entry/source` -> largest relative rise of bits per byte that counts as kept."""
    topics: dict[str, list[str]]
    """Language -> its topics, in the recipe's order."""
    bits_per_byte: list[BitsRow]
    """Held-out bits per byte of both models; empty before the evaluation."""
    benchmarks: list[BenchmarkRow]
    """Benchmarks of both models."""
    groups: dict[Literal["before", "after"], dict[str, float]]
    """Side -> group of benchmarks -> mean score; empty before the evaluation."""
    absent: dict[str, str]
    """Benchmark -> why it did not run."""
    harness: str | None
    """Version of lm-evaluation-harness; null before the evaluation."""
    curve: list[CurvePoint]
    """Forgetting over checkpoints and merges."""
    samples: list[Sample]
    """Continuations of both models."""
    corpus: CorpusFacts
    """Flow, drops, rejects, buckets and perplexity of the text."""
    budget: list[BudgetRow]
    """Planned and spent tokens."""
    order: list[OrderRow]
    """Order of the documents."""
    curriculum: list[OrderCurve]
    """Perplexity along that order; empty before the stage `tokenize`."""
    problems: list[str]
    """What the report could not work out, and why."""
    training: list[TrainingFacts]
    """One entry per training stage."""
    synthesis: SynthesisFacts
    """Synthetic text: from requests to documents."""
    repeat: RepeatFacts
    """Recipe, files, machine and cost."""
    integrity: IntegrityFacts
    """Which files were compared with their checksums."""


@record
class ComparedRun(TypedDict):
    """One run of a comparison."""

    folder: str
    """Its folder."""
    report: Report
    """Its report."""


@final
@record
class RunComparison(TypedDict):
    """Several runs side by side."""

    format: Literal[2]
    """Version of this format."""
    runs: list[ComparedRun]
    """The runs, as named."""
