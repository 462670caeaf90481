"""A byte-level BPE tokenizer as fields of a GGUF file: tokens, kinds, merges, and the pre-tokenizer."""

import json
from dataclasses import dataclass
from typing import Any

from reprise.errors import UserError
from reprise.model.loading import load_tokenizer, tokenizer_file
from reprise.model.tokenizer import begins_with_bos
from reprise.recipe.model import Model

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Kinds of tokens, numbered as in GGUF."""

_KNOWN = "byte-level BPE that splits text as GPT-2, SmolLM2, Llama 3 or Qwen 2 do"


@dataclass(frozen=True)
class GgufTokenizer:
    """The tokenizer fields of a GGUF file."""

    pre: str
    """llama.cpp's name of the pre-tokenizer."""
    tokens: list[str]
    """One per row of the embeddings; a row without a token has a placeholder name and the kind UNUSED."""
    kinds: list[int]
    merges: list[str]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    """The token that ends an answer in the chat template, which may differ from EOS."""
    pad_id: int | None
    unknown_id: int | None
    adds_bos: bool
    chat_template: str | None


def read_gguf_tokenizer(model: Model, rows: int) -> GgufTokenizer:
    """Read the tokenizer of a model directory.

    Args:
        model: the model.
        rows: rows of the embeddings.

    Raises:
        UserError: this kind of tokenizer is not supported, or it has token ids beyond the embeddings.
    """
    file = tokenizer_file(model)
    content = json.loads(file.read_text(encoding="utf-8")) if file is not None else None
    if content is None:
        raise _not_handled("tokenizer.json is missing (a sentencepiece model, or code of its own)", model)
    kind = content["model"].get("type")
    if kind != "BPE" or content["model"].get("byte_fallback"):
        what = "BPE with byte fallback, as sentencepiece makes it" if kind == "BPE" else str(kind)
        raise _not_handled(what, model)
    tokenizer = load_tokenizer(model)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    tokens = [f"[PAD{token_id}]" for token_id in range(rows)]
    kinds = [UNUSED] * rows
    added = {int(token["id"]): token for token in content.get("added_tokens") or ()}
    highest = max([*vocabulary.values(), *added])
    if highest >= rows:
        raise UserError(
            f"the tokenizer has ids up to {highest}, the model embeds {rows} tokens",
            where=str(file),
            remedy="use the tokenizer that belongs to the model",
        )
    for token, token_id in vocabulary.items():
        tokens[token_id], kinds[token_id] = token, NORMAL
    for token_id, token in added.items():
        tokens[token_id], kinds[token_id] = token["content"], CONTROL if token.get("special") else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    template = tokenizer.chat_template
    eot = end_of_turn(tokenizer)
    return GgufTokenizer(
        pre=name_of_splitting(content, model),
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        eot_id=None if eot is None else tokenizer.get_vocab()[eot],
        pad_id=tokenizer.pad_token_id,
        unknown_id=tokenizer.unk_token_id,
        adds_bos=begins_with_bos(tokenizer),
        chat_template=template if isinstance(template, str) else None,
    )


def end_of_turn(tokenizer: Any) -> str | None:
    """The added token that the chat template writes first after an answer; None if there is none."""
    if tokenizer.chat_template is None:
        return None
    answer = "730117"  # digits, which no template changes
    messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": answer}]
    try:
        _, _, after = str(tokenizer.apply_chat_template(messages, tokenize=False)).partition(answer)
    except Exception:  # templates raise any exception to refuse a conversation
        return None
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip())
    return min(
        (token for token in added if token in after), key=lambda token: (after.index(token), -len(token)), default=None
    )


def name_of_splitting(content: dict[str, Any], model: Model) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    Raises:
        UserError: the pre-tokenizer is not supported.
    """
    stated = content.get("pre_tokenizer") or {}
    steps = stated.get("pretokenizers", [stated])
    shown = [_step(step) for step in steps]
    names = {
        ("bytes after words",): "gpt-2",
        ("digits", "bytes after words"): "smollm",
        (f"split {LLAMA_3}", "bytes"): "llama-bpe",
        (f"split {QWEN_2}", "bytes"): "qwen2",
    }
    name = names.get(tuple(shown))
    if name is None:
        raise _not_handled(f"text is split by {' and '.join(shown) or 'nothing'}", model)
    return name


def _step(step: dict[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes after words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return f"split {step['pattern'].get('Regex', step['pattern'])}"
    return str(kind)


def _not_handled(what: str, model: Model) -> UserError:
    return UserError(
        f"the tokenizer cannot be written to a GGUF file: {what}",
        where=model.path,
        remedy=f"handled is {_KNOWN}; for others, convert the folder of `reprise export` with llama.cpp's own script",
    )
