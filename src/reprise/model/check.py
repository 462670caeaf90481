"""Find problems of a base model from its small files and the headers of its weights, without importing torch.

The full comparison of names, shapes and values needs the model's architecture and happens when it is loaded.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from reprise.errors import Finding, UserError, missing_extra
from reprise.model.files import model_folder, sentencepiece_file
from reprise.model.weight_files import BIN, INDEX, open_weights, refuse_lfs_pointer
from reprise.recipe.model import Model

CONFIG = "config.json"
DEQUANTIZED = {"fp8", "mxfp4"}
"""Quantization methods whose weights are dequantized on loading."""


def check_model(model: Model, seq_len: int) -> Iterator[Finding]:
    """Check a model folder on this machine; for a model on the Hub, only whether it is already downloaded.

    Args:
        model: the base model.
        seq_len: tokens in a row.
    """
    folder = model_folder(model)
    if folder is None and not isinstance(try_to_load_from_cache(model.path, CONFIG, revision=model.revision), str):
        yield Finding(
            "there is no such folder, so this is a model on the Hugging Face Hub, and it is not on this machine yet",
            where=f"model.path={model.path}",
            remedy="nothing, if that is meant: it is downloaded when it is needed",
            severity="warning",
        )
    if folder is None or model.gguf_file is not None:
        return
    try:
        config = _read(folder / CONFIG)
        yield from _check_config(config, model, seq_len)
        if not any((folder / name).is_file() for name in (BIN, f"{BIN}{INDEX}")):
            open_weights(folder)
        yield from _check_tokenizer(folder, model)
    except UserError as error:
        yield Finding.of(error)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file contains something else.
    """
    if not path.is_file():
        raise UserError(f"the model folder has no {path.name}", where=str(path.parent), remedy=_WHOLE)
    refuse_lfs_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is no JSON ({error})", where=str(path), remedy=_WHOLE) from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} is no JSON object", where=str(path), remedy=_WHOLE)
    return content


_WHOLE = "name a Hugging Face model directory with config.json, weights and tokenizer"


def _check_config(config: dict[str, Any], model: Model, seq_len: int) -> Iterator[Finding]:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    quantization = config.get("quantization_config") or text.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if quantization is not None and method not in DEQUANTIZED:
        yield Finding(
            f"the weights of {model.path} are quantized ({method}) and cannot be trained",
            "model.path",
            "name the full-precision model that they were made from",
        )
    if config.get("auto_map") and not model.trust_remote_code:
        yield Finding(
            "the model comes with Python code of its own, which is not run unless you say so",
            "model.trust_remote_code = false",
            "read the .py files of the model, and set it to true if you trust them",
            "warning",
        )
    positions = next((text[name] for name in ("max_position_embeddings", "n_positions") if text.get(name)), None)
    if isinstance(positions, int) and seq_len > positions:
        yield positions_finding(positions, seq_len, is_rotary=is_rotary(text))


def is_rotary(config: dict[str, Any]) -> bool:
    """Whether positions are computed, so that a model can run on more of them than it was trained with."""
    names = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_emb_base", "rotary_pct", "alibi")
    return any(config.get(name) for name in names)


def positions_finding(positions: int, seq_len: int, *, is_rotary: bool) -> Finding:
    """The finding for rows longer than the model's context: an error if positions are a table, else a warning."""
    return Finding(
        f"rows.seq_len = {seq_len} is more than the {positions} positions of the model"
        + (", which has not learned longer ones; evaluation uses shorter windows" if is_rotary else ""),
        f"rows.seq_len = {seq_len}",
        f"set it to at most {positions}"
        + (", or raise max_position_embeddings in config.json to train a longer context" if is_rotary else ""),
        "warning" if is_rotary else "error",
    )


def _check_tokenizer(folder: Path, model: Model) -> Iterator[Finding]:
    if sentencepiece_file(model) is not None and importlib.util.find_spec("sentencepiece") is None:
        yield Finding.of(
            missing_extra("sentencepiece", "sentencepiece", "a tokenizer that is only there as tokenizer.model"),
            "missing",
        )
    described = folder / "tokenizer_config.json"
    settings = _read(described) if described.is_file() else {}
    if (folder / "tokenizer.json").is_file():
        vocabulary = _tokens(_read(folder / "tokenizer.json"))
        eos = model.eos or settings.get("eos_token")
        eos = eos.get("content") if isinstance(eos, dict) else eos
        if vocabulary and eos is not None and eos not in vocabulary:
            yield Finding(f"{eos!r} is not a token of the vocabulary", "model.eos", "name one of its tokens")
        elif eos is None and not (folder / "special_tokens_map.json").is_file():
            yield Finding("the tokenizer has no end-of-sequence token", "model.eos", "name one of its tokens")


def _tokens(tokenizer: dict[str, Any]) -> set[str]:
    """Tokens of a tokenizer.json, if its model type lists them by name."""
    added = {token.get("content") for token in tokenizer.get("added_tokens") or () if isinstance(token, dict)}
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    listed = vocabulary if isinstance(vocabulary, dict) else ()
    return {str(token) for token in (*added, *listed)} if listed else set()
