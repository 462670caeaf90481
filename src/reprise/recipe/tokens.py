"""Token store and rows."""

from typing import Annotated, Literal

from pydantic import Field

from reprise.recipe.fields import Settings


class Tokens(Settings):
    """Documents to token ids, and ids to rows of one length."""

    tokenizer: Literal["auto", "tokenizers", "fastokens", "gigatoken"] = "auto"
    """`auto` takes the fastest that gives the same ids as `tokenizers` on a sample."""


class Rows(Settings):
    """Fixed-length rows over the token store: an index, no copy."""

    seq_len: Annotated[int, Field(ge=8)] = 8192
    """Tokens in a row."""
    packing: Literal["concat", "best_fit"] = "concat"
    """`concat` (the paper): documents joined by EOS and cut. `best_fit`: whole documents together, padded."""
    document_mask: bool = False
    """Attention stays inside a document and positions restart; the paper does neither."""
