"""Shared by the generators in this process: identity of the model, its chat template, token ids of a prompt."""

from pathlib import Path
from typing import Any

import xxhash

from reprise.errors import UserError
from reprise.generators.generator import ModelIdentity, Request
from reprise.model.loading import load_tokenizer, locate_model
from reprise.recipe.model import Model

_LOOKED_AT_BYTES = 1 << 20


def load_chat_tokenizer(model: Model, setting: str) -> Any:
    """Load the tokenizer of an instruction-tuned model.

    Args:
        model: settings of the model.
        setting: path of its settings in the recipe, for errors.

    Raises:
        UserError: the model does not exist, or it has no chat template.
    """
    tokenizer = load_tokenizer(model)
    if not tokenizer.chat_template:
        raise UserError(
            f"{model.path!r} has no chat template, so it is not an instruct model and cannot be asked",
            where=f"{setting}.model",
            remedy="name an instruct model, such as one whose name ends in -Instruct",
        )
    return tokenizer


def prompt_ids(tokenizer: Any, request: Request) -> list[int]:
    """Token ids of a request: the chat, followed by the given beginning of the answer."""
    messages = [{"role": role, "content": text} for role, text in request.messages]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text + request.begin, add_special_tokens=False)["input_ids"])


def identify(model: Model) -> ModelIdentity:
    """A hash of the names, sizes, first and last bytes of a model's files, or the Hub path of a remote model.

    Weight files are not read completely: that would take minutes for a large model.
    """
    folder = Path(locate_model(model))
    if not folder.is_dir():
        return {"name": model.path, "revision": model.revision}
    hasher = xxhash.xxh3_128()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        size = path.stat().st_size
        hasher.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            hasher.update(file.read(_LOOKED_AT_BYTES))
            file.seek(max(0, size - _LOOKED_AT_BYTES))
            hasher.update(file.read(_LOOKED_AT_BYTES))
    return {"content": hasher.hexdigest()}
