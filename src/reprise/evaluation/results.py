"""The record of an evaluation: what `evaluate/results.json` contains."""

from typing import Literal, NotRequired, final

from typing_extensions import TypedDict

from reprise.records import record

Interval = tuple[float, float]

VerdictWord = Literal["gained", "kept", "lost", "undecided"]


@record
class Verdict(TypedDict):
    """One measure before and after, and what was decided about it."""

    measure: str
    """Readable name, such as `English/paper bits per byte`."""
    kind: Literal["bits_per_byte", "benchmark"]
    """What was measured."""
    path: str
    """The entry of the mixture or the language, with a source `en/paper`; the name of a benchmark, with a metric
    `instructions-en/no_repetition` if it is another than that of the score."""
    language: str
    """Language of the text or of the questions."""
    before: float
    """Value of the base model: bits per byte, or a score from 0 to 1."""
    after: float
    """Value of the trained model."""
    change: float
    """`relative`: after / before - 1; `difference`: after - before."""
    unit: Literal["relative", "difference"]
    """Unit of `change`, `ci`, `judged_ci` and `tolerance`."""
    better: Literal["lower", "higher"]
    """Which direction is better."""
    items: int
    """Held-out documents (copies of a text count as one) or questions."""
    ci: Interval | None
    """95 % interval of `change` by itself; null with fewer than 5 documents or questions."""
    judged_error: float | None
    """Share of the 5 % error of the whole report that Holm's rule leaves to this verdict."""
    judged_ci: Interval | None
    """Interval of `change` at that error; all of it supports the verdict."""
    tolerance: float | None
    """Largest change for the worse that still counts as kept; null: none was set."""
    verdict: VerdictWord
    """What was decided."""
    reason: str | None
    """Why it is undecided; else null."""


@record
class Untested(TypedDict):
    """Something that a reader may expect and that was not measured."""

    measure: str
    """What: an entry, a source, `benchmarks`, `tolerance`."""
    reason: str
    """Why, and what would change it."""


@record
class BitsRow(TypedDict):
    """Bits per byte of an entry of the mixture or a language, of a source of it, or of a topic of a source."""

    path: str
    """`en`, `en/paper` or `en/paper/TOPIC`."""
    entry: str
    """Entry of the mixture, or a language that has no entry."""
    language: str
    """Language of the documents."""
    source: str | None
    """Source; null: all sources of the entry."""
    topic: str | None
    """Topic; null: all topics."""
    before: float
    """Bits per byte of the base model."""
    after: float
    """Bits per byte of the trained model."""
    change: float
    """after / before - 1."""
    standard_error: float | None
    """Standard error of `change`; null for one document."""
    spread: float | None
    """Standard deviation of the documents' relative changes, for `reprise plan`; null with fewer than 5."""
    ci: Interval | None
    """95 % interval of `change` by itself; null with fewer than 5 documents."""
    bootstrap_ci: Interval | None
    """95 % interval of the percentile bootstrap, for comparison only; null without `evaluation.bootstrap_samples`."""
    tolerance: float | None
    """Largest rise that still counts as kept; null: none was set."""
    verdict: VerdictWord | None
    """What was decided; null for topics, which are described and not judged."""
    num_bytes: int
    """UTF-8 bytes of the documents."""
    documents: int
    """Held-out documents; copies of a text count as one."""


@record
class TaskScore(TypedDict):
    """One model on a task of a benchmark."""

    questions: int
    """Questions that the model answered."""
    score: float
    """Mean score, 0 to 1."""


@record
class BenchmarkPart(TypedDict):
    """A task of a benchmark, such as a subject of MMLU."""

    questions: int
    """Questions that both models were asked."""
    before: float
    """Mean score of the base model."""
    after: float
    """Mean score of the trained model."""


METRIC_NAMES = {
    "acc_symbolic": "answers of equal value",
    "no_repetition": "answers without repetition",
    "own_language": "answers in the language of the question",
}
"""Metric -> what it counts, for metrics whose name does not say."""


@record
class OtherMetric(TypedDict):
    """Another metric of the same answers."""

    before: float
    """Mean score of the base model, 0 to 1."""
    after: float
    """Mean score of the trained model, 0 to 1."""
    change: float
    """after - before."""
    changed: float
    """Mean square of the questions' changes: the share that changes if scores are 0 or 1."""
    ci: Interval | None
    """95 % interval of `change` by itself; null with fewer than 5 questions."""
    tolerance: float | None
    """Largest fall that still counts as kept; null: the metric gets no verdict."""
    verdict: VerdictWord | None
    """What the interval supports; null without a tolerance."""


@record
class GoldBits(TypedDict):
    """Bits per byte of the right answers before and after: they change while a small model's score is still chance."""

    before: float
    """Bits per byte of the base model; lower is better."""
    after: float
    """Bits per byte of the trained model."""
    change: float
    """after / before - 1."""
    ci: Interval | None
    """95 % interval of `change` by itself; null with fewer than 5 questions. It gets no verdict."""
    questions: int
    """Questions whose right answer was scored."""


@record
class BenchmarkRow(TypedDict):
    """A benchmark before and after."""

    benchmark: str
    """Name in `evaluation.benchmarks`."""
    language: str
    """Language of the questions; `und` if it is not known."""
    shots: int
    """Examples in the prompt."""
    metric: str
    """The harness's name of the score."""
    questions: int
    """Questions that both models were asked."""
    total: int
    """Questions that the benchmark has."""
    sampled: bool
    """Whether `questions` is a sample of `total`."""
    before: float
    """Mean score of the base model, 0 to 1."""
    after: float
    """Mean score of the trained model, 0 to 1."""
    change: float
    """after - before."""
    changed: float
    """Mean square of the questions' changes: the share that is answered differently if scores are 0 or 1."""
    ci: Interval | None
    """95 % interval of `change` by itself; null with fewer than 5 questions."""
    tolerance: float | None
    """Largest fall that still counts as kept."""
    verdict: VerdictWord
    """What the interval supports."""
    before_ci: Interval
    """95 % interval of `before` (Wilson)."""
    after_ci: Interval
    """95 % interval of `after` (Wilson)."""
    differs: str
    """How the setting differs from that of arXiv 2407.18743."""
    parts: dict[str, BenchmarkPart]
    """Task of the harness -> its questions and scores."""
    other_metrics: dict[str, OtherMetric]
    """Other metric -> its scores, such as `acc_symbolic` (MATH, values of answers) and `no_repetition`."""
    gold_bits_per_byte: GoldBits | None
    """Bits per byte of the right answer as it was scored: its text, or its letter if the task scores letters. Null
    for generated answers."""


@record
class PointName(TypedDict):
    """Which model a point of the curve describes."""

    kind: Literal["base", "checkpoint", "merge", "chat"]
    """What the model is; `merge` is one with the base, `chat` one with `evaluation.chat_merge.model`."""
    stage: int | None
    """Training stage, counted from 1; null for the base and for merges."""
    tokens: int | None
    """Tokens that the whole run had trained on; null for a merge."""
    factor: float | None
    """Weight of the trained model in a merge with the base, or how much of what a chat model differs from its base in
    was added; else null."""


@record
class CurvePoint(TypedDict):
    """The model at one checkpoint, or at one merge with the base weights."""

    kind: Literal["base", "checkpoint", "merge", "chat"]
    """What the model is; `merge` is one with the base, `chat` one with `evaluation.chat_merge.model`."""
    stage: int | None
    """Training stage, counted from 1; null for the base and for merges."""
    tokens: int | None
    """Tokens that the whole run had trained on; null for a merge."""
    factor: float | None
    """Weight of the trained model in a merge with the base, or how much of what a chat model differs from its base in
    was added; else null."""
    bits_per_byte: dict[str, float]
    """Entry or language -> bits per byte of all its held-out text."""
    change: dict[str, float]
    """Entry or language -> relative change since the base."""
    scores: dict[str, float]
    """Benchmark of `evaluation.curve_benchmarks` -> score, 0 to 1."""


@record
class Sample(TypedDict):
    """What both models wrote after the same prompt."""

    language: str
    """Language of the prompt."""
    prompt: str
    """The prompt: the beginning of a text."""
    before: str
    """Continuation of the base model."""
    after: str
    """Continuation of the trained model."""


@final
@record
class Results(TypedDict):
    """What was measured on both models, and the verdicts."""

    headline: str
    """One line for the top of the report."""
    verdicts: list[Verdict]
    """What was decided: each entry of the mixture, each of its held-out sources, each benchmark."""
    untested: list[Untested]
    """What was not measured, and why."""
    bits_per_byte: list[BitsRow]
    """Held-out bits per byte: entries, sources, topics."""
    benchmarks: list[BenchmarkRow]
    """The benchmarks that ran."""
    groups: dict[Literal["before", "after"], dict[str, float]]
    """Group of benchmarks -> mean score; only groups of which all benchmarks ran."""
    absent: dict[str, str]
    """Benchmark -> why it did not run."""
    curve: NotRequired[list[CurvePoint]]
    """Forgetting over checkpoints and merges; only from the stage `evaluate` with `backend.kind: transformers`."""
    samples: list[Sample]
    """Continuations of the same prompts by both models, for a reader."""
    settings: dict[str, object]
    """The section `evaluation` of the recipe."""
    fingerprints: dict[Literal["before", "after"], str]
    """Side -> fingerprint of its model."""
    harness: str | None
    """Version of lm-evaluation-harness; null if it is not installed."""


@record
class ModelBitsRow(TypedDict):
    """Bits per byte of one model."""

    path: str
    """`en`, `en/paper` or `en/paper/TOPIC`."""
    entry: str
    """The language of the documents."""
    language: str
    """The language of the documents."""
    source: str | None
    """Source; null: all of them."""
    topic: str | None
    """Topic; null: all of them."""
    bits_per_byte: float
    """Bits of the documents over their UTF-8 bytes."""
    num_bytes: int
    """UTF-8 bytes of the documents."""
    documents: int
    """Documents."""


@record
class BenchmarkScore(TypedDict):
    """One model on one benchmark."""

    benchmark: str
    """Name in `evaluation.benchmarks`."""
    shots: int
    """Examples in the prompt."""
    metric: str
    """The harness's name of the score."""
    score: float
    """Mean over the questions, 0 to 1."""
    ci: Interval
    """95 % interval of `score` (Wilson)."""
    questions: int
    """Questions that the model answered."""
    total: int
    """Questions that the benchmark has."""
    sampled: bool
    """Whether `questions` is a sample of `total`."""
    parts: dict[str, TaskScore]
    """Task of the harness -> its questions and score."""
    other_metrics: dict[str, float]
    """Other metric -> its mean score."""
    differs: str
    """How the setting differs from that of arXiv 2407.18743."""
    gold_bits_per_byte: float | None
    """Bits per byte of the right answers; null if they were generated."""


@final
@record
class ModelResults(TypedDict):
    """One model by itself."""

    bits_per_byte: list[ModelBitsRow]
    """Bits per byte of each language, source and topic of the text."""
    benchmarks: list[BenchmarkScore]
    """The benchmarks that ran."""
    groups: dict[str, float]
    """Group of benchmarks -> mean score; only groups of which all benchmarks ran."""
    absent: dict[str, str]
    """Benchmark -> why it did not run."""
    settings: dict[str, object]
    """The section `evaluation` of the recipe."""
    fingerprint: str
    """Fingerprint of the model."""
    harness: str | None
    """Version of lm-evaluation-harness; null if it is not installed."""


@record
class EvaluateCounts(TypedDict):
    """Counts of the stage `evaluate`, for its manifest."""

    documents: int
    """Held-out documents that were measured."""
    bytes: int
    """UTF-8 bytes of those documents."""
    headline: str
    """The verdict in one line."""
