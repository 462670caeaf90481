"""The state of a sampler: the part `sampler` of `checkpoint.json`."""

from typing_extensions import TypedDict

from reprise.records import record

VERSION = 4


@record
class OrderSettings(TypedDict):
    """The settings that determine the order of the rows."""

    stage: dict[str, object]
    """Mixture, topics, curriculum, documents and max_epochs of the training stage."""
    rows: dict[str, object]
    """The section `rows` of the recipe without `document_mask`."""
    seed: int
    """Random seed of the run."""


@record
class BucketState(TypedDict):
    """The state of one bucket of the mixture."""

    entry: str
    """Entry of the mixture."""
    source: str
    """Source."""
    topic: str | None
    """Topic; null if the stage does not split the source."""
    tokens: int
    """Positions of the rows that the stage took from the bucket, padding included."""
    epoch: int
    """Pass over the bucket's documents, from 0."""
    cursor: list[int]
    """Where the next row begins: `[epoch, token]` with `concat`, `[epoch, document, row of the window]` with
    `best_fit`."""
    credit: int
    """Credit of the bucket before the next turn, in units of 2^-40 rows (`mixture/turns.py`)."""
    identity: str
    """Hash of the documents and everything that determines their order; the cursor is valid only if it is equal."""


@record
class RuleState(TypedDict, total=False):
    """State of a policy's rule (`mixture/rules.py`); each rule has some of the fields."""

    ppl: dict[str, float]
    """`topic_perplexity`: topic -> perplexity from which the next change is measured."""
    resampled: dict[str, list[float]]
    """`topic_perplexity`: topic -> its loss on resampled documents, at that perplexity."""
    first: dict[str, float]
    """`velocity`: topic -> its first loss."""
    first_resampled: dict[str, list[float]]
    """`velocity`, `ado`: topic -> its first loss on resampled documents."""
    log_gain: dict[str, float]
    """`bandit`: topic -> logarithm of its weight."""
    prior: dict[str, float]
    """`ado`: topic -> its first share."""
    credit: dict[str, float]
    """`ado`: topic -> its smoothed share."""
    history: list[tuple[int, dict[str, float]]]
    """`ado`: (tokens, topic -> loss) of the observations."""
    mean: dict[str, float]
    """`ado`: topic -> mean of its preferences."""
    count: int
    """`ado`: preferences in that mean."""


@record
class PolicyState(TypedDict, total=False):
    """State of a policy; {} before the first observation."""

    tokens: int
    """Tokens of the stage at the last observation."""
    rule: RuleState
    """State of its rule."""


@record
class SamplerState(TypedDict):
    """Everything that determines the next row."""

    version: int
    """Version of this record."""
    store: str
    """Fingerprint of the token store."""
    settings: OrderSettings
    """Settings that determine the order."""
    rows: int
    """Rows returned so far, over all processes."""
    tokens: int
    """Positions of these rows."""
    buckets: list[BucketState]
    """The buckets in the order of the mixture."""
    shares: dict[str, float]
    """Path, such as `zh/web` -> share of its parent."""
    policies: dict[str, PolicyState]
    """Path of a source that is split by topic -> state of its policy (`mixture/rules.py`)."""


def path_of(bucket: BucketState) -> str:
    """Path of a bucket, such as `zh/web/Others`."""
    return "/".join(part for part in (bucket["entry"], bucket["source"], bucket["topic"]) if part is not None)
