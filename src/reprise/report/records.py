"""The record of a report: what `report.json` contains, and all that its page shows."""

from typing import Annotated, Any, Literal, final

from pydantic import Field
from typing_extensions import TypedDict

from reprise.evaluation.results import BenchmarkRow, BitsRow, CurvePoint, Sample, Untested, Verdict, VerdictWord
from reprise.model.machine import Machine
from reprise.records import record
from reprise.report.corpus_records import CorpusFacts, OrderCurve, OrderRow
from reprise.report.integrity import IntegrityFacts
from reprise.report.training_records import BudgetRow, TrainingFacts
from reprise.synthesis.records import Funnel, SyntheticSamples
from reprise.vocabulary.records import VocabularyCounts


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
    """FLOPs of forward and backward passes; null if the model's configuration is missing."""
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
    """A run, at any time of it."""

    format: Literal[4]
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
    """Entry of the mixture, or language -> its topics, in the recipe's order."""
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
    vocabulary: VocabularyCounts | None
    """What the stage `vocabulary` added; null if the recipe asks for none, and before that stage."""
    corpus: CorpusFacts
    """Flow, drops, rejects, buckets and perplexity of the text."""
    budget: list[BudgetRow]
    """Planned and spent tokens."""
    order: list[OrderRow]
    """Order of the documents."""
    curriculum: list[OrderCurve]
    """Perplexity along that order; empty before the stage `tokenize`."""
    problems: list[str]
    """What the report could not compute, and why."""
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

    format: Literal[4]
    """Version of this format."""
    runs: list[ComparedRun]
    """The runs, as named."""


@record
class ReportCounts(TypedDict):
    """Counts of the stage `report`, for its manifest."""

    verdicts: int
    """Verdicts of the evaluation."""
    verified: str | None
    """When `reprise verify` ran last, as the report shows it; null: never."""
