"""Text to token ids with the fastest library that gives the ids of `tokenizers`."""

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.errors import UserError, missing_extra
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens

Ids = npt.NDArray[np.uint32]
EncodeBatch = Callable[[list[str]], list[Ids]]

log = logging.getLogger(__name__)

FASTEST_FIRST = ("gigatoken", "fastokens")
"""Measured on SmolLM2's vocabulary: gigatoken 139-214 MB/s, fastokens 70, tokenizers 5.5."""

HARD_TEXT = (
    "a",
    " \t\n\n  x   y\r\n",
    "don't I'LL we've 123,456.78 3.14e-10 x_1 == y[0]++;",
    "在 2024 年,人工智能「大模型」的研究——进展很快。\n\n第二段:汉字と仮名。",
    "naïve café e\u0301 ﬁ Ωmega Привет مرحبا हिन्दी 한국어 ภาษาไทย",
    "👩\u200d👩\u200d👧 🇨🇳 \u200b\ufeff\u00a0\u3000\x00\x07 \u2028 𝔘𝔫𝔦 𠮷",
    "def f(x):\n    return {'a': [x] * 3}\n\n\n\tif True:\n",
    "$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$",
    "word " * 600,
    "啊" * 700,
)
"""Text on which tokenizers are known to differ; every special token of the vocabulary, as text, is added to it."""


class Encoder:
    """Batches of text to ids, without special tokens: the text `<|endoftext|>` in a document is ordinary text."""

    def __init__(
        self, name: str, encode: EncodeBatch, vocab_size: int, eos_id: int, bos_id: int | None, reason: str
    ) -> None:
        self.name, self.reason = name, reason
        self.vocab_size, self.eos_id, self.bos_id = vocab_size, eos_id, bos_id
        self._encode = encode

    def encode_batch(self, texts: list[str]) -> list[Ids]:
        """Ids of each text, uint32."""
        return self._encode(texts) if texts else []


def open_encoder(model: Model, tokens: Tokens, sample: Sequence[str] = ()) -> Encoder:
    """Choose the library and check it.

    A faster library is used only if it gives the ids of `tokenizers` on `HARD_TEXT` and on the sample; the choice and
    the reason are logged and kept in `Encoder.reason`.

    Args:
        model: whose tokenizer.
        tokens: `tokenizer` names the library, `auto` takes the fastest that passes.
        sample: documents of the run.

    Raises:
        UserError: the vocabulary does not fit the model, there is no EOS or BOS token, or the library that was named is
            missing or gives other ids.
    """
    from reprise.model.loading import load_config, load_tokenizer  # seconds that readers of a store need not spend

    tokenizer = load_tokenizer(model)
    eos_id, bos_id = _special_ids(model, tokenizer)
    model_vocab = int(load_config(model).get_text_config().vocab_size)
    if max(tokenizer.vocab_size - 1, eos_id, bos_id or 0) >= model_vocab:
        raise UserError(
            f"the tokenizer has ids up to {max(tokenizer.vocab_size - 1, eos_id, bos_id or 0)}, "
            f"the model embeds {model_vocab} tokens",
            where=f"model.path = {model.path}",
            remedy="use the tokenizer that belongs to the model",
        )
    reference = _reference(tokenizer)
    texts = [*HARD_TEXT, *sorted(map(str, tokenizer.all_special_tokens)), *sample]
    wanted = reference(texts)
    refused: list[str] = []
    for name in FASTEST_FIRST if tokens.tokenizer == "auto" else (tokens.tokenizer,):
        if name == "tokenizers":
            break
        encode, problem = _try(name, tokenizer, texts, wanted)
        if encode is not None:
            reason = "; ".join([*refused, f"{name} gives the ids of tokenizers on {len(texts)} texts"])
            log.info("tokenizer: %s (%s)", name, reason)
            return Encoder(name, encode, len(tokenizer), eos_id, bos_id, reason)
        if tokens.tokenizer != "auto":
            raise UserError(f"{name} cannot be used: {problem}", where="tokens.tokenizer", remedy="set it to auto")
        refused.append(f"{name}: {problem}")
    reason = "; ".join([*refused, "tokenizers is the reference"])
    log.info("tokenizer: tokenizers (%s)", reason)
    return Encoder("tokenizers", reference, len(tokenizer), eos_id, bos_id, reason)


def _special_ids(model: Model, tokenizer: Any) -> tuple[int, int | None]:
    """Ids of the tokens that end and begin a document."""
    eos = tokenizer.eos_token if model.eos is None else model.eos
    if eos is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token", where="model.eos", remedy="name one of its tokens"
        )
    eos_id = tokenizer.get_vocab().get(eos)
    if eos_id is None:
        raise UserError(f"{eos!r} is not a token of the vocabulary", where="model.eos", remedy="name one of its tokens")
    if not model.bos:
        return int(eos_id), None
    if tokenizer.bos_token_id is None:
        raise UserError(
            "the tokenizer has no beginning-of-sequence token", where="model.bos = true", remedy="set it to false"
        )
    return int(eos_id), int(tokenizer.bos_token_id)


def _reference(tokenizer: Any) -> EncodeBatch:
    """Encoding by `tokenizers`, or by transformers where the tokenizer is not one of its kind."""
    if not tokenizer.is_fast:

        def encode_slowly(texts: list[str]) -> list[Ids]:
            encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return [np.array(ids, dtype=np.uint32) for ids in encoded]

        return encode_slowly

    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # a special token that stands in the text is text

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, dtype=np.uint32) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def _try(name: str, tokenizer: Any, texts: list[str], wanted: list[Ids]) -> tuple[EncodeBatch | None, str]:
    """An encoder by this library, or None and why it cannot be used."""
    if not tokenizer.is_fast:
        return None, "the tokenizer has no tokenizer.json"
    try:
        encode = {"gigatoken": _gigatoken, "fastokens": _fastokens}[name](tokenizer.backend_tokenizer.to_str())
        got = encode(texts)
    except ImportError:
        return None, str(missing_extra(name, "documents", "fast tokenizing")).splitlines()[0]
    except Exception as error:  # whatever a library raises for a vocabulary that it does not take
        return None, f"it refuses the vocabulary ({str(error).splitlines()[0][:100] if str(error) else repr(error)})"
    except BaseException as error:  # a Rust panic is no Exception
        if type(error).__name__ != "PanicException":
            raise
        return None, f"it fails on the vocabulary ({str(error)[:100]})"
    for text, ids, right in zip(texts, got, wanted, strict=True):
        if not np.array_equal(ids, right):
            return None, f"it gives other ids on {text[:40]!r}"
    return encode, ""


def _gigatoken(tokenizer_json: str) -> EncodeBatch:
    import gigatoken

    # It has no switch for special tokens that stand in the text, so it does not get to know them.
    parsed = json.loads(tokenizer_json)
    parsed["added_tokens"] = [token for token in parsed.get("added_tokens") or [] if not token.get("special")]
    backend = gigatoken.Tokenizer.from_json(json.dumps(parsed))

    def encode(texts: list[str]) -> list[Ids]:
        return [np.asarray(ids, dtype=np.uint32) for ids in backend.encode_batch(texts)]

    return encode


def _fastokens(tokenizer_json: str) -> EncodeBatch:
    import fastokens

    backend = fastokens.Tokenizer.from_json_str(tokenizer_json)
    backend.no_truncation()
    backend.no_padding()

    def encode(texts: list[str]) -> list[Ids]:
        ids, offsets = backend.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        flat, bounds = np.frombuffer(ids, dtype="<u4"), np.frombuffer(offsets, dtype="<u8").astype(np.int64)
        return [flat[start:stop] for start, stop in itertools.pairwise(bounds)]

    return encode
