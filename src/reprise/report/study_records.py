"""The record of a study: the content of `study.json`, from which the page is drawn."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from reprise.records import record


@record
class VariantValues(TypedDict):
    """A measure of one variant."""

    # Described in annotations, so that records that inherit the fields inherit their docs.
    values: Annotated[list[float], Field(description="One value per seed that it ran with, in the order of the seeds.")]
    mean: Annotated[float, Field(description="Mean of the values.")]
    ci: Annotated[
        tuple[float, float] | None, Field(description="Student's 95 % interval of the mean; null with one seed.")
    ]


@record
class PairedDifference(VariantValues):
    """A variant against the baseline, paired by seed."""

    unit: Literal["relative", "difference"]
    """`relative` for bits per byte; `difference` for shares."""
    detectable: float | None
    """Smallest difference that 4 of 5 such studies would detect; null with one seed."""


@record
class MeasureComparison(TypedDict):
    """One measure of a study."""

    higher_is_better: bool
    """Whether higher values are better, as for scores."""
    variants: dict[str, VariantValues]
    """Variant -> its values."""
    differences: dict[str, PairedDifference]
    """Variant -> its difference from the baseline."""
    sentences: list[str]
    """What the results do and do not show."""


@record
class StoppedVariant(TypedDict):
    """A variant that was stopped before it had run with every seed."""

    seeds: int
    """How many seeds it ran with: the first ones."""
    rank: int
    """Its rank among the variants that still ran, by the measure `halving`; 1 is the best."""
    among: int
    """How many variants were ranked, without the baseline."""
    difference: float
    """Its mean difference from the baseline on that measure, over these seeds."""


@record
class StudyResult(TypedDict):
    """A study."""

    name: str
    """Its name."""
    question: str
    """Question of the study."""
    recipe: str
    """Recipe that every variant starts from."""
    variants: dict[str, list[str]]
    """Variant -> its settings, `dotted.name=value` each."""
    baseline: str
    """The variant that the others are compared with."""
    seeds: list[int]
    """Random seeds; each variant ran once with each, or with the first ones if it was stopped."""
    halving: str | None
    """Measure by which variants were stopped before they had run with every seed; null: none could be."""
    stopped: dict[str, StoppedVariant]
    """Variants that were stopped -> when and why."""
    measures: dict[str, MeasureComparison]
    """Measure -> its comparison."""
