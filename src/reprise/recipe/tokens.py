"""Token store and rows."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reprise.recipe.fields import Settings, Share


class Tokens(Settings):
    """Documents to token ids, and ids to rows of one length."""

    means: ClassVar[frozenset[str]] = frozenset({"memory_mb"})

    tokenizer: Literal["auto", "tokenizers", "fastokens"] = "auto"
    """`auto` takes `fastokens` if it gives the same ids as `tokenizers`, which is compared all the time."""
    memory_mb: Annotated[int, Field(ge=16)] = 256
    """Memory that each worker process uses for token ids, in MB, besides the vocabulary."""


class Rows(Settings):
    """Fixed-length rows over the token store: an index, no copy."""

    seq_len: Annotated[int, Field(ge=8, le=2**24)] = 8192
    """Tokens in a row."""
    packing: Literal["concat", "best_fit"] = "concat"
    """`concat` (the paper): documents joined by EOS and cut. `best_fit`: whole documents together, padded."""
    max_padding: Share = 0.01
    """`best_fit`: where more than this share of a window of rows would be padding, the emptiest rows are joined and
    cut; 1: documents that fit into a row are never cut."""
    document_mask: bool = False
    """Attention stays inside a document and positions restart; the paper does neither."""
    conversation_loss: Literal["answers", "all"] = "answers"
    """Where a conversation is trained on: in its answers and the tokens that end them, or in `all` of its tokens."""
