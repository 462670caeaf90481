"""The rows of the page's tables: what the templates show besides the records of the report."""

from typing import Any, Literal, NamedTuple, NotRequired

from typing_extensions import TypedDict

from reprise.evaluation.results import BenchmarkRow, BitsRow, GoldBits, Interval, Verdict, VerdictWord
from reprise.report.corpus_records import FlowRow, OrderRow
from reprise.report.training_records import TrainingEvent
from reprise.synthesis.records import FunnelCounts

Level = Literal["total", "part", "subpart"]
"""Level of a row in a table with sums: an entry, a source, or a topic."""

Unit = Literal["relative", "difference"]
"""Unit of a change: relative, or a difference of shares."""


class IntervalPicture(TypedDict):
    """A change with its interval and tolerance, on an axis with zero in the middle; positions in per cent."""

    dot: float
    """Position of the change."""
    low: float
    """Position where the interval begins."""
    width: float
    """Width of the interval."""
    band: list[float] | None
    """Position and width of the tolerance; None without one."""
    verdict: str
    """Style of the picture; `described` without a verdict."""


class BarPicture(TypedDict):
    """Two bars, one in the other; lengths in per cent."""

    planned: float
    spent: float


class Changed(TypedDict):
    """What every row with a change has."""

    change: float
    unit: NotRequired[Unit]
    """Relative if it is not given."""


class BeforeAndAfter(Changed):
    """A row with a value before and after."""

    before: float
    after: float


class Tolerated(Changed):
    """A row with a tolerance."""

    tolerance: float | None


class GainRow(BitsRow):
    """Bits per byte of an entry, a source or a topic."""

    level: Level
    name: str
    picture: IntervalPicture


class VerdictRow(Verdict):
    """A verdict with its picture."""

    picture: IntervalPicture


class ScoreRow(BenchmarkRow):
    """A benchmark with its picture."""

    unit: Unit
    picture: IntervalPicture


class GoldRow(GoldBits):
    """Bits per byte of a benchmark's right answers."""

    name: str
    unit: Unit
    picture: IntervalPicture


class GroupRow(BeforeAndAfter):
    """Mean score of a group of benchmarks."""

    name: str


class OtherMetricRow(BeforeAndAfter):
    """A benchmark by another metric than that of its verdict."""

    benchmark: str
    metric: str
    name: str
    """Readable name of the metric."""
    ci: Interval | None
    verdict: VerdictWord | None
    questions: int


class SourcesOrderRow(OrderRow):
    """The order of sources of an entry that have the same one."""

    sources: list[str]


class FunnelRow(FunnelCounts):
    """Synthetic questions that are left after each step."""

    name: str
    """Discipline, or `all`."""
    level: Level
    picture: BarPicture


class BudgetTotals(TypedDict):
    """Planned and spent tokens of an entry, a source or a topic; None where no bucket has the value."""

    entry: str
    source: str | None
    topic: str | None
    planned: int | None
    spent: int | None
    available: int | None
    text_bytes: int | None
    epochs: float | None
    level: Level
    name: str


class BudgetTableRow(BudgetTotals):
    """Planned and spent tokens with their bars."""

    picture: BarPicture


class FlowTableRow(FlowRow):
    """Documents that passed a stage, with a bar."""

    bar: float
    """Length in per cent."""


class EventRow(TrainingEvent):
    """An event of training."""

    stage: int
    text: str


class ReportViews(TypedDict):
    """Values of the report's template besides the report."""

    budget: dict[int, list[BudgetTableRow]]
    """Training stage -> its rows."""
    flow: list[FlowTableRow]
    order: list[SourcesOrderRow]
    gains: list[GainRow]
    verdicts: list[VerdictRow]
    groups: list[GroupRow]
    gold_bits: list[GoldRow]
    other_metrics: list[OtherMetricRow]
    benchmarks: list[ScoreRow]
    funnel: list[FunnelRow]
    events: list[EventRow]
    machine: list[tuple[str, str]]
    machine_name: str
    recipe_yaml: str


class ComparedChange(BeforeAndAfter):
    """Bits per byte of an entry in one run."""

    entry: str


class ComparedRunRow(TypedDict):
    """A run in the table of results."""

    name: str
    state: str
    headline: str | None
    provisional: bool
    tokens: int
    seconds: float
    changes: list[ComparedChange | None]
    """Change of each entry; None if the run has none."""


class ComparedBenchmark(TypedDict):
    """A benchmark in each run."""

    name: str
    per_run: list[BenchmarkRow | None]


class ComparedSetting(TypedDict):
    """A setting in each run."""

    name: str
    per_run: list[Any]


class ComparisonViews(TypedDict):
    """Values of the comparison's template besides the comparison."""

    rows: list[ComparedRunRow]
    benchmarks: list[ComparedBenchmark]
    entries: list[str]
    differ: list[str]
    settings: list[ComparedSetting]
    names: list[str]


class VariantRow(TypedDict):
    """A measure of one variant of a study, formatted."""

    name: str
    mean: str
    interval: str
    values: list[str]


class DifferenceRow(TypedDict):
    """The difference of a variant from the baseline, formatted."""

    name: str
    verdict: str
    size: str
    interval: str
    values: list[str]
    detectable: str
    picture: IntervalPicture


class MeasureView(TypedDict):
    """A measure of a study."""

    id: str
    name: str
    better: Literal["higher", "lower"]
    sentences: list[str]
    values: list[VariantRow]
    differences: list[DifferenceRow]


class StudyViews(TypedDict):
    """Values of the study's template besides the study."""

    measures: list[MeasureView]


class Change(NamedTuple):
    """What a picture of a change shows."""

    change: float
    ci: Interval | None
    unit: Unit
    tolerance: float | None = None
    verdict: str | None = None
