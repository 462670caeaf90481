"""What a run consists of: its stages in order, and what each depends on.

A stage only gets the settings named here, so that a change re-runs exactly the stages that depend on it.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reprise.documents.drop_limit import check_drop_share, check_flows
from reprise.documents.read.files import SourceFile
from reprise.evaluation.benchmarks.external import external, searched_files
from reprise.model.files import model_files
from reprise.recipe import Recipe
from reprise.recipe.mixture import Stage as TrainingStage
from reprise.stage_files import (
    decontamination_files,
    evaluation_files,
    input_files,
    label_files,
    learned_labels,
    named_files,
    synthesis_files,
)
from reprise.stage_names import TOKENIZE, VOCABULARY
from reprise.training.events import LiveScore
from reprise.verification import read_verification
from reprise.workspace import Work

if TYPE_CHECKING:
    from reprise.documents.read.stage import ReadCounts
    from reprise.report.records import ReportCounts
    from reprise.tokens.stage import TokenizeCounts

Run = Callable[..., None]

DROPPED = ("dropped/*",)
"""Pattern of the records that document stages write about dropped documents."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: str
    run: Callable[[], Run]
    """Imports and returns the function that does the work; only called if the stage must run."""
    needs: tuple[str, ...] = ()
    """Stages whose output it reads."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that determine the output; keyword arguments of the function."""
    means: dict[str, Any] = field(default_factory=dict)
    """Settings that only affect speed, such as threads; keyword arguments that are not in the fingerprint."""
    files: Callable[[], Mapping[str, Path | SourceFile]] = dict
    """The user's files that the stage reads, by names that do not depend on their folder."""
    resumable: bool = False
    precious: bool = False
    records: tuple[str, ...] = ()
    """Patterns of outputs that only the report reads."""
    reads_records: bool = False
    """Whether it reads the records, counts and times of other stages, as the report does."""
    outdated: Callable[[Mapping[str, object]], str] = lambda counts: ""
    """Called with the counts of the published stage; returns why it would fail now, or an empty string. For settings
    that only reject output, such as `max_reject_share`, so that changing them does not run the stage again."""
    parallel: bool = False
    """Whether all processes of `torchrun` run it; other stages run in the first process, which may share out pieces of
    work."""
    passes_text: bool = False
    """Whether it passes on the text of its input, so that its copy may be removed once it was read."""
    version: int = 1
    """To be increased when the same settings and inputs give a different output."""


def stages(recipe: Recipe) -> list[Stage]:
    """The stages of a run, in order."""
    synthesis = [_synthesis_stage(recipe)] if recipe.synthesis.enabled else []
    before = ("score", *(stage.name for stage in synthesis))
    training = _training_stages(recipe)
    trained = [stage.name for stage in training]
    steps = [
        *_document_stages(recipe),
        *synthesis,
        Stage(
            "tokenize",
            lambda: _tokenize_limited(recipe),
            (*before, *_larger(recipe)),
            settings={
                "model": recipe.start_model(),
                "tokens": recipe.tokens,
                "split_sources": sorted(recipe.split_sources()),
            },
            means={"engine": recipe.documents.engine},
            records=DROPPED,
            version=5,
            files=lambda: _start_files(recipe),
        ),
        *training,
        Stage(
            "evaluate",
            lambda: _import("reprise.evaluation.stage"),
            ("score", "tokenize", *trained, *_larger(recipe)),
            settings={
                "evaluation": recipe.evaluation,
                "model": recipe.model,
                "groups": recipe.held_out_groups(),
                "last_stage": trained[-1],
                "seed": recipe.seed,
                **_if(recipe.vocabulary is not None, {"start": recipe.start_model()}),
            },
            files=lambda: named_files("model", model_files(recipe.model)) | evaluation_files(recipe),
            resumable=True,
            version=10,
        ),
    ]
    report = Stage(
        "report",
        lambda: _import("reprise.report.build"),
        tuple(step.name for step in steps),
        settings={"recipe": recipe},
        reads_records=True,
        version=2,
        outdated=lambda counts: _verified_since(counts, Path(recipe.workspace)),
    )
    return [*steps, report]


def _document_stages(recipe: Recipe) -> list[Stage]:
    """The stages from `read` to `score`."""
    return [
        _read_stage(recipe),
        _clean_stage(recipe),
        _deduplicate_stage(recipe),
        _decontaminate_stage(recipe),
        _label_stage(recipe),
        *_vocabulary_stages(recipe),
        _score_stage(recipe),
    ]


def _read_stage(recipe: Recipe) -> Stage:
    documents = recipe.documents
    return Stage(
        "read",
        lambda: _import("reprise.documents.read.stage"),
        settings={"inputs": documents.inputs, "valid_share": documents.valid_share},
        means={"engine": documents.engine, "max_reject_share": documents.max_reject_share},
        files=lambda: input_files(documents.inputs, "documents.inputs"),
        records=("rejects.jsonl",),
        outdated=lambda counts: _too_many_rejects(counts, documents.max_reject_share),
        version=5,
        passes_text=True,
    )


def _clean_stage(recipe: Recipe) -> Stage:
    return Stage(
        "clean",
        lambda: _limited("clean", recipe),
        ("read",),
        settings={"clean": recipe.documents.clean},
        means={"engine": recipe.documents.engine},
        records=DROPPED,
        version=5,
        passes_text=True,
    )


def _deduplicate_stage(recipe: Recipe) -> Stage:
    return Stage(
        "deduplicate",
        lambda: _limited("deduplicate", recipe),
        ("clean",),
        settings={"deduplicate": recipe.documents.deduplicate},
        means={"engine": recipe.documents.engine},
        records=DROPPED,
        passes_text=True,
    )


def _decontaminate_stage(recipe: Recipe) -> Stage:
    return Stage(
        "decontaminate",
        lambda: _with_questions(_limited("decontaminate", recipe), recipe),
        ("deduplicate",),
        settings={
            "decontaminate": recipe.documents.decontaminate,
            "benchmarks": recipe.evaluation.question_folders(),
        },
        means={"engine": recipe.documents.engine, "data": recipe.evaluation.data},
        records=DROPPED,
        files=lambda: decontamination_files(recipe),
        version=6,
        passes_text=True,
    )


def _label_stage(recipe: Recipe) -> Stage:
    documents, split = recipe.documents, sorted(recipe.split_sources())
    return Stage(
        "label",
        lambda: _import("reprise.documents.label.stage"),
        ("decontaminate",),
        settings={
            "topics": documents.topics,
            "quality": documents.quality,
            "split_sources": split,
            # Without learned labels, runs with other seeds reuse the stage.
            "seed": recipe.seed if split or documents.quality is not None else 0,
            **_if(any(labels.llm is not None for labels in learned_labels(recipe)), {"model": recipe.model}),
        },
        means={"engine": documents.engine},
        files=lambda: label_files(recipe),
        records=(
            "classifiers/*",
            "grade_classifiers/*",
            "report.json",
            "asked.jsonl",
            "graded.jsonl",
            "grades.json",
            *DROPPED,
        ),
        version=5,
        passes_text=True,
    )


def _vocabulary_stages(recipe: Recipe) -> list[Stage]:
    """The stage `vocabulary`, if the recipe asks for it."""
    if recipe.vocabulary is None:
        return []
    return [
        Stage(
            VOCABULARY,
            lambda: _import("reprise.vocabulary.stage"),
            ("label",),
            settings={"vocabulary": recipe.vocabulary, "model": recipe.model, "shares": recipe.vocabulary_shares()},
            means={"verify": recipe.training.verify_model},
            files=lambda: named_files("model", model_files(recipe.model)),
        )
    ]


def _larger(recipe: Recipe) -> tuple[str, ...]:
    """Needs of stages that use the initial model for training: the stage that writes it, if any."""
    return () if recipe.vocabulary is None else (VOCABULARY,)


def _start_files(recipe: Recipe) -> dict[str, Path | SourceFile]:
    """Files of the initial model for training; empty if a stage writes that model."""
    return named_files("model", model_files(recipe.model)) if recipe.vocabulary is None else {}


def _score_stage(recipe: Recipe) -> Stage:
    perplexity = recipe.documents.perplexity
    return Stage(
        "score",
        lambda: _import("reprise.documents.score"),
        ("label", *(() if perplexity.model else _larger(recipe))),
        settings={
            "model": perplexity.model or recipe.start_model(),
            "perplexity": perplexity,
            "buckets": _scored_buckets(recipe),
        },
        files=lambda: (
            _start_files(recipe) if perplexity.model is None else named_files("model", model_files(perplexity.model))
        ),
        resumable=True,
        parallel=True,
        version=2,
    )


def _synthesis_stage(recipe: Recipe) -> Stage:
    documents = recipe.documents
    return Stage(
        "synthesize",
        lambda: _with_questions(_import("reprise.synthesis.stage"), recipe),
        ("label",),
        settings={
            "synthesis": recipe.synthesis,
            "model": recipe.model,
            "clean": documents.clean,
            "deduplicate": documents.deduplicate,
            "decontaminate": documents.decontaminate,
            "benchmarks": recipe.evaluation.question_folders(),
            "seed": recipe.seed,
        },
        means={"engine": documents.engine, "data": recipe.evaluation.data},
        files=lambda: synthesis_files(recipe),
        resumable=True,
        records=(*DROPPED, "funnel.json", "samples.json", "provenance.jsonl"),
        version=5,
    )


def _training_stages(recipe: Recipe) -> list[Stage]:
    guarded = {"kept": recipe.held_out_groups().kept()}
    window = {"window": (recipe.evaluation.max_length, recipe.evaluation.stride)}
    return [
        Stage(
            f"train-{index + 1}",
            lambda: _import("reprise.training.stage"),
            ("tokenize", *((f"train-{index}",) if index else ()), *_larger(recipe)),
            settings={
                "stage": stage,
                "stage_index": index,
                "rows": recipe.rows,
                "training": recipe.training,
                "model": recipe.start_model(),
                "seed": recipe.seed,
                **_if(recipe.training.guards.acts_on_retention, guarded),
                **_if(_validations_decide(recipe, stage), window),
            },
            means={
                "benchmarks": _benchmarks_during(recipe),
                **_if(not recipe.training.guards.acts_on_retention, guarded),
                **_if(not _validations_decide(recipe, stage), window),
            },
            files=lambda: _start_files(recipe),
            resumable=True,
            precious=True,
            records=("metrics.jsonl", "shares-applied.json"),
            parallel=True,
            version=3,
        )
        for index, stage in enumerate(recipe.stages)
    ]


def _validations_decide(recipe: Recipe, stage: TrainingStage) -> bool:
    """Whether validations influence training, and are not only recorded."""
    return stage.topics.policy.name != "static" or recipe.training.guards.acts_on_retention


def _if(condition: bool, settings: dict[str, Any]) -> dict[str, Any]:
    return settings if condition else {}


def _verified_since(counts: Mapping[str, object], root: Path) -> str:
    """Why the report is outdated: `reprise verify` ran after it; empty if not."""
    last = read_verification(root)
    shown = cast("ReportCounts", counts)["verified"]
    return "" if last is None or last["when"] == shown else f"`reprise verify` ran at {last['when']}"


def _too_many_rejects(counts: Mapping[str, object], max_share: float) -> str:
    """Why the stage `read` would fail under the current limit; empty if it would not."""
    read = cast("ReadCounts", counts)
    total = read["documents_out"] + read["rejects"]
    return f"documents.max_reject_share: {max_share:g}" if read["rejects"] > max_share * total else ""


def _scored_buckets(recipe: Recipe) -> list[tuple[str, str]]:
    """(language, source) of documents that need a perplexity."""
    pairs = {
        (entry.language, source)
        for stage in recipe.stages
        for entry in stage.mixture.values()
        for source in entry.sources
    }
    return sorted(pair for pair in pairs if recipe.curriculum_selects(*pair))


def _with_questions(run: Run, recipe: Recipe) -> Run:
    """Wrap a stage that searches documents for questions: add the files of external benchmarks to its settings."""

    def run_with(work: Work, **settings: Any) -> None:
        run(work, questions=searched_files(external(recipe.evaluation.benchmarks)), **settings)

    return run_with


def _limited(name: str, recipe: Recipe) -> Run:
    """Wrap a document stage to fail if it drops too much; the limit is no setting of it, as it changes no output."""
    run = _import(f"reprise.documents.{name}.stage")

    def run_and_check(work: Work, **settings: Any) -> None:
        run(work, **settings)
        check_drop_share(name, work, recipe.documents.max_drop_share, _trained_pairs(recipe))

    return run_and_check


def _tokenize_limited(recipe: Recipe) -> Run:
    """Wrap the stage `tokenize` to fail if the chat template refuses too many conversations."""
    run = _import("reprise.tokens.stage")

    def run_and_check(work: Work, **settings: Any) -> None:
        run(work, **settings)
        check_flows(
            TOKENIZE,
            cast("TokenizeCounts", work.counts)["drops"],
            recipe.documents.max_drop_share,
            _trained_pairs(recipe),
        )

    return run_and_check


def _trained_pairs(recipe: Recipe) -> set[tuple[str, str]]:
    """(language, source) of all training text."""
    return {
        (entry.language, source)
        for stage in recipe.stages
        for entry in stage.mixture.values()
        for source, share in entry.sources.items()
        if share and entry.share
    }


def _import(module: str) -> Run:
    run: Run = importlib.import_module(module).run
    return run


def _benchmarks_during(recipe: Recipe) -> Callable[[Any, str], list[LiveScore]]:
    """Make the function that runs the recipe's benchmarks on a model in training."""

    def measure(model: Any, fingerprint: str) -> list[LiveScore]:
        from reprise.evaluation.benchmarks.live import measure_live

        cache = Path(recipe.workspace) / "cache" / "evaluate" / "benchmarks"
        start = recipe.start_model()
        return measure_live(
            model, fingerprint, settings=start, evaluation=recipe.evaluation, cache=cache, seed=recipe.seed
        )

    return measure
