"""Settings of the base model."""

from typing import ClassVar, Literal

from reprise.recipe.fields import AnyPath, Settings


class Model(Settings):
    """The open model to train, which also scores perplexity."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"path"})

    path: AnyPath
    """A Hugging Face model directory or Hub name; `package:NAME` is the folder of an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    gguf_file: str | None = None
    """A GGUF file inside `path`; it is converted once to safetensors in the user's cache."""
    trust_remote_code: bool = False
    """Run the model's own Python code. Leave it off unless you have read that code."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    """Implementation of attention; `auto`: the fastest that this machine and the packing allow."""
    eos: str | None = None
    """The token that ends a document; null: the tokenizer's end-of-sequence token."""
    bos: bool = False
    """Put the tokenizer's beginning-of-sequence token before each document (the paper does not)."""
