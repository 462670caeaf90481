"""Checks of the model: its files, its chat template, its vocabulary, and a chat model to merge it with."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from reprise.documents.read.conversations import is_told, may_be_recognised
from reprise.errors import Finding, UserError
from reprise.model.chat import ChatTemplate, RefusedConversationError
from reprise.model.check import check_model
from reprise.model.conversation import load_messages
from reprise.model.files import model_files, model_folder
from reprise.preflight.inputs import sampled_records
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.storage import printable
from reprise.vocabulary.merges import read_bpe
from reprise.workspace import Workspace

if TYPE_CHECKING:
    from reprise.documents.read.stage import ReadCounts

SAMPLED_CONVERSATIONS = 50
"""How many conversations per input are tried; the chat template must accept at least one."""
RECORDS_OF_CONVERSATIONS = frozenset({"jsonl", "json", "csv", "tsv", "parquet", "arrow"})
"""Formats whose records may be conversations."""


def check_model_files(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's folder and files exist and are complete, judging by small files only."""
    try:
        model_files(recipe.model)
    except UserError as error:
        yield Finding.of(error, "missing")
    else:
        yield from check_model(recipe.model, recipe.rows.seq_len)


def check_vocabulary(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's vocabulary can be extended, if the recipe asks for that.

    Raises:
        UserError: it cannot.
    """
    if recipe.vocabulary is not None:
        read_bpe(recipe.model)
    return iter(())


def check_chat_merge(recipe: Recipe) -> Iterator[Finding]:
    """Check that the chat model of `evaluation.chat_merge` can be merged with the trained model.

    Raises:
        UserError: it cannot.
    """
    if (merge := recipe.evaluation.chat_merge) is not None:
        from reprise.merging.checks import check_mergeable  # imports torch

        base = merge.base or recipe.model
        if _is_same(base, merge.model):
            raise UserError(
                "the chat model and its base are one model: there is nothing to add",
                where=f"evaluation.chat_merge.model.path = {merge.model.path}",
                remedy="name the model that it was made from: evaluation.chat_merge.base",
            )
        check_mergeable(recipe.model, base, merge.model, grows=recipe.vocabulary is not None)
    return iter(())


def _is_same(one: Model, other: Model) -> bool:
    """Whether both settings name the same files."""
    names = [(model_folder(model) or model.path, model.revision, model.gguf_file) for model in (one, other)]
    return names[0] == names[1]


def has_conversations(recipe: Recipe) -> bool:
    """Whether any document is a conversation: as counted by the stage `read`, else in the inputs' first records."""
    manifest = Workspace(recipe.workspace).manifest("read")
    if manifest is not None:
        return cast("ReadCounts", manifest.counts).get("conversations", 0) > 0
    return any(
        is_told(entry)
        or (
            may_be_recognised(entry)
            and any(record.fields["messages"] for record in sampled_records(entry, RECORDS_OF_CONVERSATIONS))
        )
        for entry in recipe.documents.inputs
    )


def check_chat_template(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's template can format conversations, if the text has any.

    Raises:
        UserError: it has no template, or one that cannot be followed.
    """
    if has_conversations(recipe):
        for model in (recipe.model, recipe.documents.perplexity.model):
            if model is not None:
                template = ChatTemplate(model)
                if model is recipe.model:
                    yield from _check_conversations(recipe, template)


def _check_conversations(recipe: Recipe, template: ChatTemplate) -> Iterator[Finding]:
    """Check that the template accepts any of the first conversations of each input; refused ones are dropped."""
    for index, entry in enumerate(recipe.documents.inputs):
        if not (is_told(entry) or may_be_recognised(entry)):
            continue
        refused: list[str] = []
        accepted = False
        for record in sampled_records(entry, RECORDS_OF_CONVERSATIONS):
            if record.fields["messages"] is None:
                continue
            try:
                template.render(load_messages(record.fields["messages"]))
            except RefusedConversationError as error:
                refused.append(error.why)
            else:
                accepted = True
            if accepted or len(refused) == SAMPLED_CONVERSATIONS:
                break
        if refused and not accepted:
            yield Finding(
                f"the model's chat template refuses each of the first {len(refused)} conversations: {refused[0]}",
                f"documents.inputs.{index}.path={printable(str(entry.path))}",
                "bring them into the form that the template writes, or use a model with another chat template",
            )
