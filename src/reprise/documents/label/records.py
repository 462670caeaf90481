"""The records of the stage `label`: `report.json` and `grades.json`, an entry per language, and its counts."""

from typing import NamedTuple, NotRequired

from typing_extensions import TypedDict

from reprise.documents.part_step import StepCounts
from reprise.generators.cached import Expenses
from reprise.records import record


class LabelKey(NamedTuple):
    """How a document got its topic or grade: the key under which the stage counts documents."""

    what: str
    """`topic` or `grade`."""
    language: str
    how: str
    """`carried` (the document had it), `named` (a language model), `classified`, `unsure` (too little confidence)."""
    label: str
    """The topic or grade."""


@record
class AskedFigures(TypedDict):
    """What a language model was asked about a sample of the documents."""

    documents: int
    """Documents of the sample."""
    labelled: int
    """Answers that name a label."""
    unusable: dict[str, int]
    """Reason -> other answers, most frequent first."""
    prompt_tokens: int
    """Tokens of the prompts."""
    completion_tokens: int
    """Generated tokens."""
    prompt: str
    """Name of the prompt, TASK.LANGUAGE@VERSION."""
    cost: float
    """In the currency of the recipe's prices."""


@record
class ConfidenceBin(TypedDict):
    """Held-out documents whose confidence lies in one tenth."""

    confidence: float
    """Mean confidence of the classifier."""
    accuracy: float
    """Share of right answers."""
    documents: int
    """Documents."""


@record
class TopicFigures(TypedDict):
    """A classifier of topics on labels that it was not fitted on."""

    labels: int
    """Labelled documents that were held out, each once."""
    accuracy: float
    """Share of right answers."""
    macro_f1: float
    """Mean F1 over the topics that have a label."""
    f1: dict[str, float]
    """Topic -> F1."""
    confusion: list[list[int]]
    """[label][answer], in the order of the topics."""
    calibration_error: float
    """Expected calibration error: mean distance of confidence and accuracy over ten bins of confidence."""
    calibration: list[ConfidenceBin]
    """Bins that have documents."""


@record
class TopicReport(TypedDict):
    """The topics of one language: an entry of `report.json`."""

    topics: NotRequired[list[str]]
    """The topics, in the recipe's order."""
    asked: NotRequired[AskedFigures]
    """What a language model was asked."""
    classifier: NotRequired[str]
    """Kind of the classifier; absent where every document carries its topic."""
    labels: NotRequired[dict[str, int]]
    """Topic -> labels that the classifier was fitted on."""
    temperature: NotRequired[float]
    """Divisor of the log-probabilities that calibrates them."""
    held_out: NotRequired[TopicFigures]
    """How good the classifier is."""
    documents: dict[str, dict[str, int]]
    """How (`carried`, `named`, `classified`, `unsure`) -> topic -> documents."""


@record
class GradeBin(TypedDict):
    """Held-out documents whose given grade rounds to the expected one."""

    given: float
    """Mean of the grades that the classifier gives."""
    true: float
    """Mean of the grades that they were labelled with; calibrated if it is near `given`."""
    documents: int
    """Documents."""


@record
class GradeFigures(TypedDict):
    """A classifier of grades on labels that it was not fitted on."""

    classifier: str
    """Kind of the classifier."""
    labels: dict[str, int]
    """Grade -> labelled documents."""
    held_out: int
    """Labelled documents that were held out, each once."""
    mean_error: float
    """Mean distance of given and true grade."""
    error_of_mean: float
    """The same where every document gets the mean grade: what a classifier that saw nothing would reach."""
    rank_correlation: float | None
    """Spearman's; null if all have one grade."""
    calibration: list[GradeBin]
    """Given against true grades."""
    min_grade: float
    """`documents.quality.min_grade`; the next two are of the rule to keep what is graded so or higher."""
    precision: float | None
    """Share of the kept documents whose true grade is so high too; null if it keeps none."""
    recall: float | None
    """Share of the documents whose true grade is so high that it keeps; null if there are none."""


@record
class GradeReport(TypedDict):
    """The grades of one language: an entry of `grades.json`."""

    asked: NotRequired[AskedFigures]
    """What a language model was asked."""
    figures: NotRequired[GradeFigures]
    """How right the classifier is; absent if none was fitted."""
    documents: dict[str, dict[str, int]]
    """How (`named`, `classified`) -> grade -> documents."""


@record
class LabelCounts(StepCounts):
    """Counts of the stage `label`, for its manifest."""

    labels: dict[str, int]
    """Language -> texts that the classifier of topics was fitted on."""
    unlabelled: dict[str, int]
    """Language -> documents that needed a topic and carried none."""
    asked: Expenses | None
    """What was asked about topics; null: nothing."""
    asked_grades: Expenses | None
    """What was asked about grades; null: nothing."""
