"""Files of a merge besides its weights: configuration, tokenizer and chat template; and a check of the whole."""

import json
from pathlib import Path

import torch

from reprise.merging.sides import Side
from reprise.model.loading import copy_tokenizer_and_code, load_generation_settings, load_model
from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.storage import write_json
from reprise.training.published import check_published, make_probe


def weight_type(own: Side, chat: Side) -> torch.dtype:
    """The dtype of the merged model's config.json."""
    dtype = own.config.dtype or chat.config.dtype or torch.float32
    assert isinstance(dtype, torch.dtype)
    return dtype


def check_merged(folder: Path, own: Side, chat: Side) -> None:
    """Load a merged model in another process, and compare its token ids and logits with those computed here.

    Raises:
        UserError: it cannot be loaded there, or gives other ids or logits.
    """
    published = Model(path=str(folder), trust_remote_code=own.settings.trust_remote_code)
    probe = make_probe(Objective(load_model(published)), {}, published)
    check_published(folder, probe, published, weight_type(own, chat))


def write_descriptions(own: Side, chat: Side, source: Side, folder: Path, *, rows: int) -> None:
    """Write everything but the weights.

    Args:
        own: the trained model, whose configuration is written.
        chat: the chat model, whose chat template, special tokens and generation settings are written.
        source: the side whose tokenizer is written, see `check_tokens`.
        folder: folder to write.
        rows: rows of the embeddings.
    """
    config = own.config
    config.get_text_config().vocab_size = rows
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(chat.config, name, None))
    config.save_pretrained(folder)
    copy_tokenizer_and_code(source.settings, folder)
    if (generation := load_generation_settings(chat.settings)) is not None:
        generation.save_pretrained(folder)
    if source is not chat:
        _take_chat_settings(chat, folder)


def _take_chat_settings(chat: Side, folder: Path) -> None:
    """Write the chat model's template and special tokens over those of the trained model's tokenizer."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in ("bos_token", "eos_token", "pad_token"):
        if (token := getattr(chat.tokenizer, name)) is not None:
            settings[name] = str(token)
    settings.pop("chat_template", None)
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    if isinstance(chat.tokenizer.chat_template, str):
        template.write_text(chat.tokenizer.chat_template, encoding="utf-8")
    write_json(path, settings)
