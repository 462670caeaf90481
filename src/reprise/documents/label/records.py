"""Records of the stage `label`: `report.json` and `grades.json`, with an entry per language, and its counts."""

from typing import NamedTuple, NotRequired

from typing_extensions import TypedDict

from reprise.documents.part_step import StepCounts
from reprise.generators.cached import Expenses
from reprise.records import record


class LabelKey(NamedTuple):
    """How a document got its topic or grade: the key by which the stage counts documents."""

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
    """Documents in the sample."""
    labelled: int
    """Answers that give a label."""
    unusable: dict[str, int]
    """Reason -> answers without a label, most frequent first."""
    prompt_tokens: int
    """Tokens of the prompts."""
    completion_tokens: int
    """Generated tokens."""
    prompt: str
    """Name of the prompt, TASK.LANGUAGE@VERSION."""
    cost: float
    """Cost, in the currency of the recipe's prices."""


@record
class ConfidenceBin(TypedDict):
    """Held-out documents whose confidence is in one tenth of the range 0 to 1."""

    confidence: float
    """Mean confidence of the classifier."""
    accuracy: float
    """Share of correct answers."""
    documents: int
    """Documents in this bin."""


@record
class TopicFigures(TypedDict):
    """Figures of a topic classifier on labels that it was not fitted on."""

    labels: int
    """Labelled documents that were held out, each once."""
    accuracy: float
    """Share of correct answers."""
    macro_f1: float
    """Mean F1 over the topics that have at least one label."""
    f1: dict[str, float]
    """Topic -> F1."""
    confusion: list[list[int]]
    """confusion[i][j]: documents with topic i that were classified as topic j, in the order of `topics`."""
    calibration_error: float
    """Expected calibration error: mean distance between confidence and accuracy over ten bins of confidence."""
    calibration: list[ConfidenceBin]
    """The bins that contain documents."""


@record
class TopicReport(TypedDict):
    """The topics of one language: an entry of `report.json`."""

    topics: NotRequired[list[str]]
    """The topics, in the recipe's order."""
    asked: NotRequired[AskedFigures]
    """What a language model was asked."""
    classifier: NotRequired[str]
    """Kind of the classifier; absent if every document carries its topic."""
    labels: NotRequired[dict[str, int]]
    """Topic -> labels that the classifier was fitted on."""
    temperature: NotRequired[float]
    """Divisor of the log-probabilities that calibrates them."""
    held_out: NotRequired[TopicFigures]
    """Figures of the classifier on held-out labels."""
    documents: dict[str, dict[str, int]]
    """How the topic was given (`carried`, `named`, `classified`, `unsure`) -> topic -> documents."""


@record
class GradeBin(TypedDict):
    """Held-out documents whose expected grade rounds to the same grade."""

    given: float
    """Mean of the grades that the classifier gives them."""
    true: float
    """Mean of the grades that they are labelled with; close to `given` if the classifier is calibrated."""
    documents: int
    """Documents in this bin."""


@record
class GradeFigures(TypedDict):
    """Figures of a grade classifier on labels that it was not fitted on."""

    classifier: str
    """Kind of the classifier."""
    labels: dict[str, int]
    """Grade -> labelled documents."""
    held_out: int
    """Labelled documents that were held out, each once."""
    mean_error: float
    """Mean absolute difference between given and true grade."""
    error_of_mean: float
    """The same if every document gets the mean grade: the error of a classifier that ignores the text."""
    rank_correlation: float | None
    """Spearman's rank correlation of given and true grades; null if all have one grade."""
    calibration: list[GradeBin]
    """Given and true grades, by given grade."""
    min_grade: float
    """`documents.quality.min_grade`: the filter keeps documents with this grade or a higher one."""
    precision: float | None
    """Share of the kept documents whose true grade is at least `min_grade`; null if none is kept."""
    recall: float | None
    """Share of the documents with a true grade of at least `min_grade` that are kept; null if there are none."""


@record
class GradeReport(TypedDict):
    """The grades of one language: an entry of `grades.json`."""

    asked: NotRequired[AskedFigures]
    """What a language model was asked."""
    figures: NotRequired[GradeFigures]
    """Figures of the classifier; absent if none was fitted."""
    documents: dict[str, dict[str, int]]
    """How the grade was given (`named`, `classified`) -> grade -> documents."""


@record
class LabelCounts(StepCounts):
    """Counts of the stage `label`, for its manifest."""

    labels: dict[str, int]
    """Language -> texts that the topic classifier was fitted on."""
    unlabelled: dict[str, int]
    """Language -> documents that needed a topic but carried none."""
    asked: Expenses | None
    """Requests for topics; null if there were none."""
    asked_grades: Expenses | None
    """Requests for grades; null if there were none."""
