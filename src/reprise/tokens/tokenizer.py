"""Text to token ids with a fast library, where it gives the ids of `tokenizers`."""

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reprise.errors import UserError, missing_extra
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens

Ids = npt.NDArray[np.uint32]
EncodeBatch = Callable[[list[str]], list[Ids]]

log = logging.getLogger(__name__)

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


CHECKED_DOCUMENTS, CHECKED_CHARS = 512, 2_000
"""Documents of the first batch, and characters of each, on which the fast library is compared; later, one a batch."""


class Encoder:
    """Batches of text to ids, without special tokens: the text `<|endoftext|>` in a document is ordinary text.

    Args:
        name: of the library.
        encode: texts to ids.
        vocab_size: number of tokens.
        eos_id: ends a document.
        bos_id: begins a document; None: nothing does.
        reason: why this library.
        reference: what gives the right ids, where that is not `encode` itself.
    """

    def __init__(
        self,
        name: str,
        encode: EncodeBatch,
        vocab_size: int,
        eos_id: int,
        bos_id: int | None,
        reason: str,
        reference: EncodeBatch | None = None,
    ) -> None:
        self.name, self.reason = name, reason
        self.vocab_size, self.eos_id, self.bos_id = vocab_size, eos_id, bos_id
        self._encode, self._reference = encode, reference
        self._num_batches = 0

    def encode_batch(self, texts: list[str]) -> list[Ids]:
        """Ids of each text, uint32.

        Raises:
            UserError: a text that was compared has other ids by the reference: in the first batch the first
                `CHECKED_DOCUMENTS`, in every later one the text at another place.
        """
        if not texts:
            return []
        if self._reference is not None:
            place = self._num_batches % len(texts)
            chosen = texts[place : place + 1] if self._num_batches else texts[:CHECKED_DOCUMENTS]
            checked = [text[:CHECKED_CHARS] for text in chosen]
            if problem := _difference(checked, self._encode(checked), self._reference(checked)):
                raise UserError(
                    f"{self.name} cannot be used: {problem}",
                    where="tokens.tokenizer",
                    remedy="set it to tokenizers, which is slower",
                )
        self._num_batches += 1
        return self._encode(texts)


def open_encoder(model: Model, tokens: Tokens) -> Encoder:
    """Choose the library and check it.

    `fastokens` is used only if it gives the ids of `tokenizers` on `HARD_TEXT`, and goes on being compared while
    it is used; the choice and the reason are logged and kept in `Encoder.reason`.

    Args:
        model: whose tokenizer.
        tokens: `tokenizer` names the library, `auto` takes the fast one if it passes.

    Raises:
        UserError: the vocabulary does not fit the model, there is no EOS or BOS token, or the library that was named is
            missing or gives other ids.
    """
    # Seconds that readers of a store need not spend.
    from reprise.model.loading import load_config, load_tokenizer, locate_model

    file = Path(locate_model(model), "tokenizer.json")
    with ThreadPoolExecutor(1) as beside:  # both read the vocabulary, which takes as long as encoding 50 MB
        early = beside.submit(lambda: _open_fastokens(file.read_text(encoding="utf-8")))
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
    name, encode, reason = "tokenizers", reference, "it was asked for"
    if tokens.tokenizer != "tokenizers":
        fast, problem = _fastokens(tokenizer, reference, early)
        if fast is not None:
            name, encode, reason = "fastokens", fast, "it gives the ids of tokenizers"
        elif tokens.tokenizer == "fastokens":
            raise UserError(f"fastokens cannot be used: {problem}", where="tokens.tokenizer", remedy="set it to auto")
        else:
            reason = f"fastokens: {problem}"
    log.info("tokenizer: %s (%s)", name, reason)
    checked = None if encode is reference else reference
    return Encoder(name, encode, len(tokenizer), eos_id, bos_id, reason, checked)


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

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # a special token that stands in the text is text

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, dtype=np.uint32) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def _fastokens(tokenizer: Any, reference: EncodeBatch, early: Future[EncodeBatch]) -> tuple[EncodeBatch | None, str]:
    """Encoding by `fastokens`, or None and why it cannot be used.

    On two cores it encodes 230 to 320 MB of English a second, `tokenizers` 5.

    Args:
        tokenizer: of transformers.
        reference: what gives the right ids.
        early: the library opened with the model's file. Where that fails or gives other ids, it is opened once more
            with what transformers made of the file.
    """
    if not tokenizer.is_fast:
        return None, "the tokenizer has no tokenizer.json"
    texts = [*HARD_TEXT, *sorted(map(str, tokenizer.all_special_tokens))]
    right = reference(texts)
    problem = ""
    for opened in (early, None):
        try:
            encode = opened.result() if opened else _open_fastokens(tokenizer.backend_tokenizer.to_str())
            problem = _difference(texts, encode(texts), right)
        except ImportError:
            return None, str(missing_extra("fastokens", "documents", "fast tokenizing")).splitlines()[0]
        except Exception as error:  # whatever the library raises for a vocabulary that it does not take
            said = str(error).splitlines()[0][:100] if str(error) else repr(error)
            problem = f"it refuses the vocabulary ({said})"
        except BaseException as error:  # a Rust panic is no Exception
            if type(error).__name__ != "PanicException":
                raise
            problem = f"it fails on the vocabulary ({str(error)[:100]})"
        if not problem:
            return encode, ""
    return None, problem


def _open_fastokens(tokenizer_json: str) -> EncodeBatch:
    import fastokens

    backend = fastokens.Tokenizer.from_json_str(tokenizer_json)
    backend.no_truncation()
    backend.no_padding()

    def encode(texts: list[str]) -> list[Ids]:
        ids, offsets = backend.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        flat, bounds = np.frombuffer(ids, dtype="<u4"), np.frombuffer(offsets, dtype="<u8").tolist()
        return [flat[start:stop] for start, stop in itertools.pairwise(bounds)]

    return encode


def _difference(texts: Sequence[str], got: Sequence[Ids], right: Sequence[Ids]) -> str:
    """What is wrong with ids, or an empty text."""
    for text, ids, wanted in zip(texts, got, right, strict=True):
        if not np.array_equal(ids, wanted):
            return f"it gives other ids on {text[:40]!r}"
    return ""
