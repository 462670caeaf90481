"""Settings of the token store and the rows."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reprise.recipe.fields import Settings, Share


class Tokens(Settings):
    """How documents become token ids."""

    means: ClassVar[frozenset[str]] = frozenset({"memory_mb"})

    tokenizer: Literal["auto", "tokenizers", "fastokens"] = "auto"
    """`auto`: `fastokens` if it gives the same ids as `tokenizers`, which is checked during the whole stage."""
    memory_mb: Annotated[int, Field(ge=16)] = 256
    """Memory in MB that each worker process uses for token ids, in addition to the vocabulary."""


class Rows(Settings):
    """Rows of one length, as an index over the token store without copies."""

    seq_len: Annotated[int, Field(ge=8, le=2**24)] = 8192
    """Tokens per row."""
    packing: Literal["concat", "best_fit"] = "concat"
    """`concat` (the paper): documents joined by EOS and cut. `best_fit`: whole documents together, padded."""
    max_padding: Share = 0.01
    """`best_fit`: if padding would exceed this share of a window of rows, the emptiest rows are joined and cut; 1:
    documents that fit into a row are never cut."""
    document_mask: bool = False
    """Attention does not cross document boundaries and positions restart; the paper does neither."""
    conversation_loss: Literal["answers", "all"] = "answers"
    """Tokens of a conversation with a loss: the answers and the tokens that end them, or `all` of its tokens."""
