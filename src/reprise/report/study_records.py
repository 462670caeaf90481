"""The record of a study: what `study.json` contains, and all that its page shows."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from reprise.records import record


@record
class VariantValues(TypedDict):
    """A measure of one variant."""

    # In the annotation, because a record that inherits these fields shows their meaning too.
    values: Annotated[list[float], Field(description="One for each seed that it ran with, in their order.")]
    mean: Annotated[float, Field(description="Their mean.")]
    ci: Annotated[
        tuple[float, float] | None, Field(description="Student's 95 % interval of the mean; null with one seed.")
    ]


@record
class PairedDifference(VariantValues):
    """A variant against the baseline, paired by seed."""

    unit: Literal["relative", "difference"]
    """Relative for bits per byte, else of shares."""
    detectable: float | None
    """The smallest difference that would show in 4 of 5 such studies; null with one seed."""


@record
class MeasureComparison(TypedDict):
    """One measure of a study."""

    higher_is_better: bool
    """Whether more is better: scores, not bits per byte."""
    variants: dict[str, VariantValues]
    """Variant -> its values."""
    differences: dict[str, PairedDifference]
    """Variant -> its difference from the baseline."""
    sentences: list[str]
    """What the numbers do and do not show."""


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
    """What it asks."""
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
