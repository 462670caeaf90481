"""The record of a plan: what `reprise plan --json` prints."""

from typing import Literal, final

from typing_extensions import TypedDict

from reprise.evaluation.power import Reach
from reprise.records import record
from reprise.synthesis.estimate import Need
from reprise.training.memory_records import MemoryPlan


@record
class Summary(TypedDict):
    """Cost of a run."""

    tokens: int
    """Tokens of all training stages."""
    steps: int
    """Optimizer steps of all training stages."""
    gpu: str
    """`hardware.gpu`."""
    gpus: int
    """GPUs that train together."""
    gpu_hours: float | None
    """GPU-hours of training alone; null if the model's size is not known."""
    hours: float | None
    """Hours on all GPUs together."""
    days: float | None
    """`hours` / 24."""
    cpu_cores: int
    """Cores of the machine that made the plan."""
    cpu_hours: float | None
    """Hours of training on these cores; null if the machine has a GPU, the recipe names one (`hardware.gpu`), or the
    model's size is not known."""
    cost: float | None
    """Price of the GPU-hours at `hardware.price_per_hour`; null without a price."""
    tokens_per_s: float | None
    """Tokens per second of training, on all GPUs together; null if the model's size is not known."""
    utilisation: float
    """Assumed share of the GPUs' peak (MFU)."""
    utilisation_source: str
    """Source of `utilisation`: the recipe, or a published figure."""
    disk_gb: float
    """Estimated size of the workspace, in 10^9 bytes."""


@record
class PlannedStage(TypedDict):
    """One training stage."""

    stage: int
    """Counted from 1."""
    name: str
    """Its name in the recipe."""
    tokens: int
    """Tokens to train on."""
    steps: int
    """Optimizer steps."""
    training_flops: float | None
    """FLOPs of forward and backward passes; null if the model's size is not known."""
    gpu_hours: float | None
    """GPU-hours at the assumed utilisation; null if the model's size is not known."""


@record
class PlannedBucket(TypedDict):
    """Tokens that a stage takes from one bucket; in tables also from a whole source or entry."""

    stage: int
    """Counted from 1."""
    entry: str
    """Entry of the stage's mixture."""
    source: str | None
    """Source; null only in tables: all sources of the entry."""
    topic: str | None
    """Topic; null if the stage does not split the source."""
    tokens: int
    """Tokens that the stage trains on."""
    available_tokens: int | None
    """Training tokens of its documents; null before the stage `tokenize`."""
    epochs: float | None
    """Passes over them at the end of the stage; null before the stage `tokenize`."""
    runs_out_after: int | None
    """Tokens of the stage after which the bucket has been read `max_epochs` times; null if never, or not known."""
    answer_tokens: int | None
    """Tokens of answers among those that the stage trains on, on average; null without conversations, and before the
    stage `tokenize`."""
    text_bytes: int | None
    """UTF-8 bytes of text in those tokens, on average; null with conversations, and before the stage `tokenize`."""


@record
class SourceTokens(TypedDict):
    """Tokens of a source over all stages."""

    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    tokens: int
    """Tokens of all stages."""


@record
class Totals(TypedDict):
    """All training stages together."""

    tokens: int
    """Tokens to train on."""
    steps: int
    """Optimizer steps."""
    training_flops: float | None
    """FLOPs; null if the model's size is not known."""
    gpu_hours: float | None
    """GPU-hours; null if the model's size is not known."""
    by_entry_and_source: list[SourceTokens]
    """Tokens of each source."""


@record
class Assumptions(TypedDict):
    """Values that the cost is computed from."""

    gpu: str
    """`hardware.gpu`."""
    peak_bf16_tflops: float
    """Dense bfloat16 peak of that GPU, in 10^12 FLOP/s."""
    utilisation: float
    """`hardware.utilisation`: assumed share of the peak."""
    flops_per_token: float | None
    """Forward and backward pass; null if the model's size is not known."""
    formula: str
    """How `flops_per_token` was computed."""
    tokens_per_step: int
    """Tokens of a global batch."""


@record
class ScoringCost(TypedDict):
    """Cost of the stage `score`, whose perplexities order the text."""

    tokens: int
    """Tokens to score."""
    measured: bool
    """Whether the stage `score` has counted them; else they are the tokens that training takes from ordered buckets."""
    flops: float | None
    """FLOPs of the forward passes; null if the scoring model's size is not known."""
    gpu_hours: float | None
    """GPU-hours at the assumed utilisation."""


@record
class MeasuringCost(TypedDict):
    """Cost of the measurements on held-out text, without benchmarks and samples."""

    validations: int
    """Validations while training."""
    validation_tokens: int
    """Tokens of all of them."""
    models: int
    """Models whose bits per byte are measured: base, kept checkpoints, ends of stages, and merges."""
    evaluation_tokens: int
    """Tokens that these read, windows that overlap counted in full."""
    flops: float | None
    """FLOPs of the forward passes; null if the model's size is not known."""


@record
class PreparedStage(TypedDict):
    """Cost of one stage from `read` to `tokenize`."""

    stage: str
    """Name of the stage."""
    core_hours: float
    """Hours on one core."""
    hours: float
    """Hours on all cores together."""


@record
class Preparation(TypedDict):
    """Cost of the stages that prepare the text, without `score`; estimated from rates measured on another machine."""

    text_gb: float
    """Text that is read, in 10^9 bytes of UTF-8: `hardware.text_gb`, or by the sizes of the input files."""
    cpu_cores: int
    """`hardware.cpu_cores`, or the cores of the machine that made the plan."""
    hours: float
    """Hours of all these stages on all cores together."""
    memory_gb_per_core: float
    """Peak memory of the stage that needs most, divided by the cores, in 10^9 bytes."""
    machine: str
    """Machine on which the rates were measured."""
    date: str
    """When they were measured."""
    stages: list[PreparedStage]
    """Each stage, in order."""


@record
class PlannedText(TypedDict):
    """Budget of one language in bytes of text, with the base model's vocabulary and the larger one."""

    language: str
    """Language."""
    held_out: bool
    """Whether bytes per token were measured on held-out text; else on the text that tokens were learned from."""
    tokens: int
    """Tokens that all stages train on."""
    bytes_before: int
    """UTF-8 bytes of text in that many tokens of the base model."""
    bytes_after: int
    """UTF-8 bytes of text in that many tokens of the larger vocabulary."""


@record
class PlannedVocabulary(TypedDict):
    """Effect of the stage `vocabulary` on the budget."""

    tokens_added: int
    """Tokens that were added."""
    rows: int
    """Rows of the embeddings now."""
    languages: list[PlannedText]
    """Languages from whose text tokens were learned."""


@record
class PlanFinding(TypedDict):
    """A finding of preflight."""

    what: str
    """What is wrong or missing."""
    where: str
    """Setting with its value, or file and line; may be empty."""
    remedy: str
    """What to do; may be empty."""
    severity: Literal["error", "missing", "warning"]
    """`error` and `missing` stop a run; `reprise plan` refuses only errors."""


@final
@record
class Plan(TypedDict):
    """Budgets, epochs, steps and cost of a run."""

    name: str
    """Name of the recipe."""
    summary: Summary
    """Cost of the run."""
    stages: list[PlannedStage]
    """Training stages."""
    buckets: list[PlannedBucket]
    """Tokens that each stage takes from each bucket of its mixture."""
    topics: dict[str, list[str]]
    """Language -> the topics that its text is labelled with; only languages with a source that is split by topic."""
    totals: Totals
    """All stages together."""
    assumptions: Assumptions
    """Peak, utilisation and FLOPs per token."""
    vocabulary: PlannedVocabulary | None
    """Effect of the stage `vocabulary`; null before that stage, or if the recipe has none."""
    memory: MemoryPlan | None
    """Whether training fits into the GPU's memory; null if the model is not on this machine."""
    scoring: ScoringCost | None
    """Cost of the stage `score`; null if no bucket is ordered by perplexity."""
    measuring: MeasuringCost | None
    """Cost of validations and evaluation; null before the text is tokenized."""
    preparation: Preparation | None
    """Cost of the stages from `read` to `tokenize`; null if the size of the text is not known."""
    synthesis: Need | None
    """Synthetic tokens needed, and their cost; null without synthesis."""
    reach: list[Reach]
    """Which verdicts can be reached with the held-out documents, once tokenized, and local benchmark questions."""
    warnings: list[str]
    """Warnings about the budget."""
    findings: list[PlanFinding]
    """Findings of preflight."""
