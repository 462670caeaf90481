"""The record of a report: the content of `report.json`, from which the page is drawn."""

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
    """Whether all, some or none of its stages are done."""
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
    """`done`: published. `unfinished`: started and not published."""
    seconds: float | None
    """Duration; null unless done."""
    finished: str | None
    """UTC time, ISO 8601; null unless done."""
    version: str | None
    """Version of Reprise that ran it; null unless done."""
    fingerprint: str | None
    """Hash of all that decides its output; null unless done."""
    last_sign_of_life_s_ago: float | None
    """Seconds since a file of an unfinished stage changed."""
    counts: dict[str, object]
    """Counts of its manifest."""
    older_input: list[str]
    """Stages that ran again after this one had read their output."""


@record
class VerdictPart(TypedDict):
    """A part of the headline."""

    verdict: VerdictWord | Literal["none"]
    """Verdict of the part; `none`: it names what was not tested."""
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
    """Whether the evaluation is still missing."""
    headline: str | None
    """One line; null while provisional."""
    parts: list[VerdictPart]
    """The headline in parts."""
    verdicts: list[Verdict]
    """Verdicts of the evaluation."""
    untested: list[Untested]
    """What the evaluation did not measure."""
    so_far: list[ChangeSoFar]
    """Changes at the last validation; empty once there is a verdict."""


@record
class SynthesisFacts(TypedDict):
    """Synthetic text."""

    enabled: bool
    """Whether the recipe has synthesis."""
    funnel: Funnel | None
    """From requests to documents; null before the stage `synthesize`."""
    samples: SyntheticSamples
    """Some documents and some drops."""


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
    """The machine of the last training process, as logged when it started."""

    processes: Annotated[int, Field(description="Processes of the training.")]


@record
class CostFacts(TypedDict):
    """Cost of training so far."""

    tokens: int
    """Tokens trained on in all stages."""
    training_flops: float | None
    """FLOPs of forward and backward passes; null if the model's configuration is missing."""
    process_hours: float
    """Hours, summed over all processes."""
    price: float | None
    """Cost at `hardware.price_per_hour`; null without that setting."""


@record
class RepeatFacts(TypedDict):
    """What is needed to reproduce the run."""

    seed: int
    """Random seed."""
    recipe: dict[str, Any]
    """The resolved recipe."""
    files: list[FileFacts]
    """Files that the stages read."""
    machine: MachineFacts | None
    """Machine of the training; null before training started."""
    cost: CostFacts
    """Cost of training."""
    seconds: float
    """Duration of all finished stages."""


@final
@record
class Report(TypedDict):
    """A run, finished or not."""

    format: Literal[4]
    """Version of this format."""
    run: RunFacts
    """Name, model and state of the run."""
    stages: list[StageFacts]
    """The stages of the run, in order."""
    verdict: VerdictFacts
    """What the model gained, kept and lost."""
    tolerance: dict[str, float]
    """Entry, language or `entry/source` -> largest relative rise of bits per byte that counts as kept."""
    topics: dict[str, list[str]]
    """Entry of the mixture, or language -> its topics, in the recipe's order."""
    bits_per_byte: list[BitsRow]
    """Held-out bits per byte of both models; empty before the evaluation."""
    document_bytes: int
    """Bytes from the beginning of each held-out document that are measured; 0: all."""
    benchmarks: list[BenchmarkRow]
    """Benchmarks of both models."""
    groups: dict[Literal["before", "after"], dict[str, float]]
    """Side -> group of benchmarks -> mean score; empty before the evaluation."""
    absent: dict[str, str]
    """Benchmark -> why it did not run."""
    harness: str | None
    """Version of lm-evaluation-harness; null before the evaluation."""
    curve: list[CurvePoint]
    """Measurements of checkpoints and merges."""
    samples: list[Sample]
    """Continuations of both models."""
    vocabulary: VocabularyCounts | None
    """Counts of the stage `vocabulary`; null before that stage, or if the recipe has none."""
    corpus: CorpusFacts
    """Flow, drops, rejects, buckets and perplexity of the text."""
    budget: list[BudgetRow]
    """Planned and spent tokens."""
    order: list[OrderRow]
    """Order of the documents in training."""
    curriculum: list[OrderCurve]
    """Perplexity along the order of training; empty before the stage `tokenize`."""
    problems: list[str]
    """What the report could not compute, with the reason."""
    training: list[TrainingFacts]
    """The training stages."""
    synthesis: SynthesisFacts
    """Synthetic text: from requests to documents."""
    repeat: RepeatFacts
    """Recipe, files, machine and cost, to reproduce the run."""
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
    """Time of the last `reprise verify` that the report shows; null: none."""
