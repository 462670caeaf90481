"""Settings of a training stage: the text that it trains on, in which shares and in which order."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from reprise.recipe.fields import Count, Settings, Share, check_sum
from reprise.recipe.languages.codes import OptionalLanguage, find_language, normalise_keys, normalise_path
from reprise.recipe.training import Schedule

DEFAULT_TOLERANCE = 0.02
"""Tolerance of an entry with `keep: true` and no `tolerance`; of English, if a recipe keeps nothing by name."""


class MixtureEntry(Settings):
    """One entry at the first level of a stage's mixture: a language, or the synthetic text."""

    means: ClassVar[frozenset[str]] = frozenset({"keep", "tolerance"})
    share: Share
    """Share of the stage's tokens; the shares of a stage sum to 1."""
    language: OptionalLanguage = ""
    """Language of the entry's documents; empty: the entry's own name."""
    sources: dict[str, Share]
    """Source -> share within this entry; they sum to 1."""
    keep: bool = False
    """The model must not lose this entry: it has a tolerance in the training guard, the verdicts and the exit code."""
    tolerance: Share | None = None
    """`keep`: largest relative increase of the entry's bits per byte that still counts as kept; null: 0.02."""

    @field_validator("sources")
    @classmethod
    def _sources_sum(cls, sources: dict[str, float]) -> dict[str, float]:
        _check_names(sources)
        check_sum(sources, "the shares of the sources")
        return sources

    @model_validator(mode="after")
    def _tolerance_needs_keep(self) -> "MixtureEntry":
        if self.tolerance is not None and not self.keep:
            raise ValueError("`tolerance` says nothing without `keep: true`")
        return self


class Curriculum(Settings):
    """Order of the documents inside a bucket."""

    order: Literal["ascending", "descending", "random", "segments", "cyclic"] = "random"
    """By perplexity: `ascending` is from easy to hard (the paper, for Chinese)."""
    by: Literal["perplexity", "grade"] = "perplexity"
    """What documents are ordered and cut by: perplexity, or the grade of `documents.quality` (`ascending`: best
    last)."""
    segments: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """`segments`: how many parts in ascending order, each shuffled. `cyclic`: how many passes from easy to hard."""
    drop_below: Share = 0.0
    """Documents below this quantile are skipped."""
    drop_above: Share = 1.0
    """Documents above this quantile are skipped."""

    @property
    def is_ordered(self) -> bool:
        """Whether the order or the cuts depend on what `by` names."""
        return self.order != "random" or self.drop_below > 0.0 or self.drop_above < 1.0

    @property
    def needs_perplexity(self) -> bool:
        """Whether the order or the cuts depend on perplexity."""
        return self.is_ordered and self.by == "perplexity"


class Policy(Settings):
    """How the shares of topics change during training."""

    name: Literal["static", "topic_perplexity", "ado", "bandit", "velocity"] = "static"
    """`topic_perplexity` is the paper's rule: more of a topic whose perplexity rose. The others are alternatives."""
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Strength of the change (ours: the paper does not give it)."""
    noise: Annotated[float, Field(ge=0.0)] = 3.0
    """A topic that differs from the mean of its source by less than this many standard errors of the held-out documents
    counts as the mean; 0: every difference counts (ours)."""
    topic_weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """Topic, or its path such as `zh/web/Law` -> weight of its change; 1 if it is not named (ours)."""
    normaliser: Literal["relative", "largest"] = "relative"
    """A perplexity's change is relative to its previous value, or also to the largest change of any topic (ours)."""
    every_tokens: Count = 0
    """Tokens between two updates; 0: at every validation."""
    floor: Share = 0.01
    """Smallest share of a topic in its source (ours)."""
    cap: Share = 0.5
    """Largest share of a topic in its source (ours)."""
    max_step: Share = 0.03
    """Largest change of a share in one update (3 %, as in the same group's next model); 1 does not limit a rule."""
    targets: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """`velocity`: topic, or its path such as `zh/web/Law` -> target of its held-out loss, in nats per token."""
    target_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """`velocity`: target of the other topics, as a share of their initial loss (ours)."""
    exploration: Share = 0.1
    """`bandit` (Exp3 with every arm observed: Hedge): share that is distributed equally (gamma)."""
    rate: Annotated[float, Field(gt=0.0)] = 0.3
    """`bandit`: learning rate of the rewards (eta)."""
    credit_power: Share = 0.5
    """`ado`: weight of recent use (s)."""
    credit_smoothing: Share = 0.1
    """`ado`: weight of the latest shares in the recent use (gamma 1)."""
    preference_smoothing: Share = 0.1
    """`ado`: weight of the latest preference relative to the mean of all earlier ones (gamma 2)."""

    def of_source(self, path: str) -> "Policy":
        """The policy of one split source, with its settings for topics keyed by topic; a path overrides a topic.

        Args:
            path: path of the source, such as `zh/web`.
        """
        resolved = {
            name: {key: value for key, value in given.items() if "/" not in key}
            | {key.removeprefix(f"{path}/"): value for key, value in given.items() if key.startswith(f"{path}/")}
            for name, given in (("targets", self.targets), ("topic_weights", self.topic_weights))
        }
        return self.model_copy(update=resolved)

    @model_validator(mode="after")
    def _floor_under_cap(self) -> "Policy":
        if self.floor > self.cap:
            raise ValueError(f"floor={self.floor:g} is over cap={self.cap:g}")
        return self


class Topic(Settings):
    """How sources are split by topic."""

    sources: list[str] = []
    """Sources that are split by topic, in every mixture entry that has them."""
    initial: Literal["uniform", "available", "inherit"] = "uniform"
    """Initial shares: equal, in proportion to the tokens of each topic, or those at the end of the previous stage."""
    policy: Policy = Policy()


class Stage(Settings):
    """One training stage."""

    means: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """Name in the logs and the report, one word."""
    tokens: Annotated[Count, Field(gt=0)]
    """Tokens to train on."""
    mixture: dict[str, MixtureEntry]
    """Language (or `synthetic`) -> its share and sources."""
    topics: Topic = Topic()
    curriculum: dict[str, Curriculum] = {}
    """`zh` or `zh/web` -> order of its documents; the longer key takes precedence; everything else is `random`."""
    schedule: Schedule = Schedule()
    optimizer_state: Literal["carry", "reset"] = "carry"
    """What a stage after the first does with the optimizer's moments."""
    documents: Literal["carry", "restart"] = "carry"
    """A later stage continues in each bucket where the previous stage stopped, or starts again. `carry` requires the
    same documents and curriculum in both stages; epochs are then counted from the first."""
    max_epochs: Annotated[float, Field(gt=0.0)] = 4.0
    """Most passes over a bucket; after them its share is given to its siblings, with a warning."""
    trains: Literal["all", "new_tokens"] = "all"
    """`new_tokens`: only the rows of embeddings and output layer that `vocabulary` added, as a first phase. A step
    costs as much as one that trains all weights; a stage that trains other weights than the previous one starts with
    new moments."""

    def idle(self) -> frozenset[str]:
        """Names of settings that are equivalent to not being set."""
        return frozenset({"trains"}) if self.trains == "all" else frozenset()

    def curriculum_of(self, name: str, source: str) -> Curriculum:
        """Curriculum of a bucket of the mixture entry `name`."""
        return self.curriculum.get(f"{name}/{source}") or self.curriculum.get(name) or Curriculum()

    @field_validator("mixture")
    @classmethod
    def _languages_named(cls, mixture: dict[str, MixtureEntry]) -> dict[str, MixtureEntry]:
        return {
            name: entry if entry.language else entry.model_copy(update={"language": name})
            for name, entry in mixture.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _language_codes(cls, data: Any) -> Any:
        """Replace the name of an entry that is named after its language by the language's code."""
        if not isinstance(data, dict) or not isinstance(data.get("mixture"), dict):
            return data
        mixture = normalise_keys(data["mixture"], lambda name: _entry_name(name, data["mixture"].get(name)))
        data = {**data, "mixture": mixture}
        if isinstance(data.get("curriculum"), dict):
            data["curriculum"] = normalise_keys(data["curriculum"], lambda path: normalise_path(path, mixture))
        return data

    @model_validator(mode="after")
    def _shares_sum(self) -> "Stage":
        _check_names(self.mixture)
        check_sum({name: entry.share for name, entry in self.mixture.items()}, "the shares of the mixture")
        return self


def _entry_name(name: str, entry: Any) -> str:
    """Name of an entry; one with a `language` of its own keeps the name that the user gave it."""
    language = entry.get("language") if isinstance(entry, Mapping) else getattr(entry, "language", None)
    return name if language else find_language(name) or name


def _check_names(names: Iterable[str]) -> None:
    """Check names, which are combined to paths such as `zh/web`."""
    if bad := [name for name in names if "/" in name or not name]:
        raise ValueError(f"the name {bad[0]!r} is empty or holds a `/`, which divides entry, source and topic")
