"""`reprise annotate`: label documents of a run by hand, and measure the agreement with other labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from reprise.documents.label.agreement import Agreement, say_agreement
from reprise.documents.label.annotation import (
    AnnotationFile,
    classifier_answers,
    compare_annotations,
    draw_sample,
)
from reprise.documents.label.annotation_screen import annotate
from reprise.documents.label.llm_labels import FILE as ASKED
from reprise.documents.label.llm_labels import Asked, read_asked
from reprise.documents.label.stage import make_fit
from reprise.documents.label.training_set import collect_labels
from reprise.documents.table import DOCUMENTS
from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.recipe.documents import Input
from reprise.recipe.languages.codes import normalise_language
from reprise.workspace import Workspace

CLASSIFIER, LANGUAGE_MODEL = "classifier (not fitted on these documents)", "language model"


class Annotated(TypedDict):
    """The result of a labelling session."""

    file: str
    labelled: int
    """Labels in the file."""
    new: int
    """Labels added in this session."""
    in_recipe: bool
    """Whether `documents.topics.labelled` accepts the file."""
    topics: dict[str, list[str]]
    """Document language -> the topics to choose from."""
    agreement: dict[str, Agreement]
    """Other set of labels -> its agreement with the file."""


def annotate_run(
    recipe: Recipe,
    path: Path,
    bring_up_to_date: Callable[[Recipe], None],
    *,
    documents: int,
    language: str | None,
    against: Sequence[Path],
    ask: bool,
) -> Annotated:
    """Label a sample of a run's documents by hand, and compare with other labels.

    Args:
        recipe: recipe of the run.
        path: file of labels; created if it does not exist.
        bring_up_to_date: runs the stages of a recipe up to `decontaminate`.
        documents: how many documents to label, including those that already have a label.
        language: label only documents in this language; None: in any.
        against: label files of other people; if given, their documents are labelled.
        ask: whether to ask for labels, or only compare.

    Raises:
        UserError: no source is split by topic, there is no document to label, or a file is not a label file.
    """
    topics, split = recipe.documents.topics, sorted(recipe.split_sources())
    if language is not None:
        language = _language(language)
    if not split:
        raise UserError(
            "no stage of this recipe splits a source by topic, so no document needs one",
            where="stages.N.topics.sources",
            remedy="name the sources to split, such as `topics: {sources: [web]}`; training works without topics",
        )
    others = {f"annotator {other.name}": AnnotationFile.read(other) for other in against}
    labels = AnnotationFile.open(path)  # before checking the recipe, which may name this file
    bring_up_to_date(recipe)
    workspace = Workspace(recipe.workspace)
    table = workspace.folder("decontaminate") / DOCUMENTS
    new = 0
    if ask:
        sample = [entry for other in others.values() for entry in other.documents()]
        sample = sample or draw_sample(table, split, topics.list_of, documents, recipe.seed, language)
        sample = [entry for entry in sample if language in (None, entry.lang)]
        _check_sample(sample, language)
        new = annotate(sample, labels, topics.list_of)
    languages = sorted({line["lang"] for line in labels.lines})
    known = collect_labels(table, _others_of(recipe, path), topics.list_of, split)
    fits = {lang: make_fit(topics.list_of(lang), recipe.seed, topics) for lang in languages}
    compared = {
        CLASSIFIER: classifier_answers(labels.lines, known, fits, once=topics.classifier == "encoder"),
        LANGUAGE_MODEL: read_asked(str(workspace.folder("label") / ASKED)),
        **{name: other.labels() for name, other in others.items()},
    }
    return Annotated(
        file=str(path),
        labelled=len(labels.labels()),
        new=new,
        in_recipe=any(Path(entry.path).resolve() == path.resolve() for entry in topics.labelled),
        topics={lang: topics.list_of(lang) for lang in languages},
        agreement=compare_annotations(labels.labels(), {name: other for name, other in compared.items() if other}),
    )


def _language(code: str) -> str:
    try:
        return normalise_language(code)
    except ValueError as error:
        raise UserError(str(error), where="--language") from None


def _check_sample(sample: Sequence[Asked], language: str | None) -> None:
    if not sample:
        raise UserError(
            "there is no document to label: all carry a topic, or none is of a source that is split by topic",
            where="--language" if language else "stages.N.topics.sources",
            remedy="`reprise rejects RECIPE` shows what was dropped before",
        )


def _others_of(recipe: Recipe, path: Path) -> list[Input]:
    """The labelled files of the recipe, except this one."""
    return [entry for entry in recipe.documents.topics.labelled if Path(entry.path).resolve() != path.resolve()]


def say_result(result: Annotated) -> list[str]:
    """Format the result as lines for the terminal."""
    lines = [f"{result['file']}: {result['labelled']:,} labels ({result['new']:,} new)"]
    lines += [say_agreement(name, agreement) for name, agreement in result["agreement"].items()]
    if result["labelled"] and not result["in_recipe"]:
        lines.append(f"in the recipe: `documents: {{topics: {{labelled: [{{path: {result['file']}}}]}}}}`")
    return lines
