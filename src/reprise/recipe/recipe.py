"""The recipe: the root of all settings, and checks that involve several sections."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from reprise.recipe.documents import Documents
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.fields import FolderPath, MirrorUrl, Settings
from reprise.recipe.groups import Groups, find_groups
from reprise.recipe.hardware import Hardware
from reprise.recipe.languages.codes import find_language, normalise_keys, normalise_path
from reprise.recipe.mixture import Stage
from reprise.recipe.model import Model
from reprise.recipe.synthesis import Synthesis
from reprise.recipe.tokens import Rows, Tokens
from reprise.recipe.training import Training
from reprise.recipe.vocabulary import Vocabulary


class Recipe(Settings):
    """All settings of a run."""

    means: ClassVar[frozenset[str]] = frozenset({"workspace", "mirror"})

    name: str
    """Name of the run in the report."""
    workspace: FolderPath
    """Folder for everything the run writes; relative to the current folder."""
    mirror: MirrorUrl = ""
    """Object store that finished stages and checkpoints are copied to while the run continues, and from which an empty
    disk resumes: `s3://bucket/folder` or `gs://...`, one folder per run; empty: none (docs/cluster.md)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 17
    """Random seed of all random choices."""
    model: Model
    vocabulary: Vocabulary | None = None
    """Add tokens to the base model's vocabulary first; null: train with the vocabulary that it has."""
    documents: Documents = Documents()
    synthesis: Synthesis = Synthesis()
    tokens: Tokens = Tokens()
    rows: Rows = Rows()
    stages: list[Stage] = Field(min_length=1)
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    hardware: Hardware = Hardware()

    @model_validator(mode="after")
    def _language_codes(self) -> "Recipe":
        names = {name for stage in self.stages for name in stage.mixture}
        names |= {part.language for stage in self.stages for part in stage.mixture.values() if part.language}
        given = self.evaluation.tolerance or {}
        # A language that is only held out is also recognised by its code.
        names |= {code for path in given if (code := find_language(path.split("/", 1)[0])) is not None}
        tolerance = normalise_keys(given, lambda path: normalise_path(path, names))
        if tolerance != given:
            object.__setattr__(self, "evaluation", self.evaluation.model_copy(update={"tolerance": tolerance}))
        return self

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "Recipe":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ, got {', '.join(names)}")
        if self.stages[0].topics.initial == "inherit":
            raise ValueError("the first stage has no stage before it to inherit topic shares from")
        if self.stages[0].schedule.initial_lr == "last":
            raise ValueError("the first stage has no stage before it to take a learning rate from: give a value")
        return self

    @model_validator(mode="after")
    def _grades_are_made(self) -> "Recipe":
        graded = set(self.documents.quality.sources) if self.documents.quality is not None else set()
        for index, stage in enumerate(self.stages):
            for name, entry in stage.mixture.items():
                for source in entry.sources:
                    curriculum = stage.curriculum_of(name, source)
                    if curriculum.by == "grade" and curriculum.is_ordered and source not in graded:
                        raise ValueError(
                            f"stages.{index}.curriculum orders {name}/{source} by grade, and it has none: "
                            f"add {source} to documents.quality.sources"
                        )
        return self

    @model_validator(mode="after")
    def _new_tokens_can_be_trained(self) -> "Recipe":
        for index, stage in enumerate(self.stages):
            if stage.trains == "all":
                continue
            where, training = f"stages.{index}.trains: new_tokens", self.training
            if self.vocabulary is None:
                raise ValueError(f"{where} needs `vocabulary`, which adds them")
            if training.adapter.kind != "none":
                raise ValueError(
                    f"{where} does not go with an adapter, which freezes the embeddings or trains all of them"
                )
            if training.step_in_backward:
                raise ValueError(f"{where} needs all gradients before the step: set training.step_in_backward to false")
        return self

    @model_validator(mode="after")
    def _kept_groups_agree(self) -> "Recipe":
        self.held_out_groups()
        return self

    def held_out_groups(self) -> Groups:
        """Held-out documents that get a verdict together, and the tolerance of each group."""
        return find_groups(self.stages, self.evaluation.tolerance)

    def start_model(self) -> Model:
        """The model from which training starts: `model`, or with `vocabulary` the output of that stage.

        The trained model is still compared with `model`: bits per byte do not depend on the vocabulary.
        """
        if self.vocabulary is None:
            return self.model
        larger = {"path": str(Path(self.workspace) / "vocabulary" / "model"), "revision": None, "gguf_file": None}
        return self.model.model_copy(update=larger)

    def vocabulary_shares(self) -> dict[str, dict[str, float]]:
        """Language -> source -> share of the text that new tokens are learned from, by the tokens of all stages."""
        named = set(self.vocabulary.languages) if self.vocabulary is not None else set()
        tokens: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for stage in self.stages:
            for entry in stage.mixture.values():
                for source, share in entry.sources.items():
                    if entry.share * share and (not named or entry.language in named):
                        tokens[entry.language][source] += stage.tokens * entry.share * share
        total = sum(sum(sources.values()) for sources in tokens.values())
        return {
            language: {source: round(count / total, 6) for source, count in sources.items()}
            for language, sources in tokens.items()
        }

    def split_sources(self) -> set[str]:
        """Sources that any stage splits by topic: the token store has a bucket for each of their topics."""
        return {source for stage in self.stages for source in stage.topics.sources}

    def curriculum_selects(self, language: str, source: str) -> bool:
        """Whether any stage orders this language and source by perplexity, so that it must be scored."""
        return any(
            stage.curriculum_of(name, source).needs_perplexity
            for stage in self.stages
            for name, entry in stage.mixture.items()
            if entry.language == language and source in entry.sources
        )
