"""Stage `vocabulary`: the base model with tokens learned from the run's own text.

    model/            the model that scoring, tokenizing, training and evaluation use; an ordinary transformers folder
    new_tokens.json   the new tokens

The stage is not resumable: learning takes seconds per megabyte, and the same text gives the same bytes.
"""

from collections.abc import Mapping

from reprise.documents.table import DOCUMENTS
from reprise.model.new_tokens import write_new_tokens
from reprise.recipe.model import Model
from reprise.recipe.vocabulary import Vocabulary
from reprise.vocabulary.extend import extend_model, sample_texts
from reprise.workspace import Work

MODEL = "model"


def run(
    work: Work, *, vocabulary: Vocabulary, model: Model, shares: Mapping[str, Mapping[str, float]], verify: bool
) -> None:
    """Learn tokens from the documents of `label`, and write the model with them.

    Args:
        work: reads `label`.
        vocabulary: how many tokens to add.
        model: the base model.
        shares: language -> source -> its share of the text to learn from.
        verify: load the model in another process and compare ids and logits.

    Raises:
        UserError: the tokenizer cannot be extended, or no token is frequent enough.
    """
    num_bytes = int(vocabulary.megabytes * 1_000_000)
    texts, held_out = sample_texts(work.inputs["label"] / DOCUMENTS, shares, num_bytes)
    counts, tokens = extend_model(
        model,
        texts,
        held_out,
        work.output / MODEL,
        num_tokens=vocabulary.tokens,
        min_count=vocabulary.min_count,
        verify=verify,
    )
    write_new_tokens(work.output, tokens)
    work.counts.update(counts)
