"""Convert text to token ids, for scoring, the token store, validation, evaluation and samples alike.

The ids come from the model's `tokenizer.json`, else from transformers with `tokenizer.model` or with
the model's code. Document text is text: the characters `<|endoftext|>` in a document are split like any others
and never become the control token. A faster library is used if it gives the same ids.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from reprise.errors import UserError, missing_extra
from reprise.model.files import sentencepiece_file
from reprise.recipe.model import Model

Ids = npt.NDArray[np.uint32]
EncodeBatch = Callable[[list[str]], list[Ids]]
Library = Literal["auto", "tokenizers", "fastokens"]

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
"""Text on which tokenizers are known to differ; every added token of the vocabulary, as text, is compared too."""

PLAIN_TEXT = ("The cat didn't sit on 123 mats, did it?", "人工智能的研究进展很快")
"""Text that no tokenizer normalizes."""

CHECKED_DOCUMENTS, CHECKED_CHARS = 512, 2_000
"""Documents of the first batch, and characters of each, on which the fast library is checked; later, one per batch."""


class Tokenizer:
    """Texts to ids, without special tokens: the text `<|endoftext|>` in a document is ordinary text.

    Args:
        library: which library `encode` calls.
        encode: texts to ids.
        vocab_size: how many ids there are.
        eos_id: id that ends a document.
        bos_id: id that begins a document, or None.
        reason: why this library is used.
        reference: encoder with the correct ids, if that is not `encode` itself.
        start_id: id prepended to a text whose first token is scored; None: `bos_id`, else `eos_id`.
        num_embeddings: rows of the model's embeddings; None: the vocabulary size.
    """

    def __init__(
        self,
        library: str,
        encode: EncodeBatch,
        vocab_size: int,
        eos_id: int,
        bos_id: int | None,
        reason: str,
        reference: EncodeBatch | None = None,
        start_id: int | None = None,
        num_embeddings: int | None = None,
    ) -> None:
        self.library, self.reason = library, reason
        self.vocab_size, self.eos_id, self.bos_id = vocab_size, eos_id, bos_id
        begins = eos_id if bos_id is None else bos_id
        self.start_id = begins if start_id is None else start_id
        self._encode, self._reference, self._num_embeddings = encode, reference, num_embeddings
        self._num_batches = 0

    def encode_batch(self, texts: list[str]) -> list[Ids]:
        """Ids of each text, uint32.

        Raises:
            UserError: the reference gives other ids for a text that was compared (in the first batch the first
                `CHECKED_DOCUMENTS`, in every later one a single text, each time another one of the batch), or an id is
                outside the model's embeddings.
        """
        if not texts:
            return []
        if self._reference is not None:
            turn = self._num_batches % len(texts)
            chosen = texts[turn : turn + 1] if self._num_batches else texts[:CHECKED_DOCUMENTS]
            checked = [text[:CHECKED_CHARS] for text in chosen]
            if problem := _difference(checked, self._encode(checked), self._reference(checked)):
                raise UserError(
                    f"{self.library} cannot be used: {problem}",
                    where="tokens.tokenizer",
                    remedy="set it to tokenizers, which is slower",
                )
        self._num_batches += 1
        encoded = self._encode(texts)
        if self._num_embeddings is not None:
            self._check_embedded(texts, encoded, self._num_embeddings)
        return encoded

    def _check_embedded(self, texts: list[str], encoded: list[Ids], num_embeddings: int) -> None:
        if int(np.concatenate(encoded).max(initial=0)) < num_embeddings:
            return
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) and int(ids.max()) >= num_embeddings:
                raise UserError(
                    f"the tokenizer gives the id {int(ids.max())} in the text {text[:40]!r}, "
                    f"but the model embeds {num_embeddings} tokens",
                    where="model.path",
                    remedy="use the tokenizer that belongs to the model",
                )


def open_tokenizer(model: Model, library: Library = "tokenizers") -> Tokenizer:
    """The model's tokenizer, checked against its own file.

    `fastokens` is used only if it gives the ids of `tokenizers` on `HARD_TEXT`, and is compared continuously while it
    is used; the choice and the reason are logged and kept in `Tokenizer.reason`.

    Args:
        model: model whose tokenizer is opened.
        library: library to use; `auto` uses the fast one if it passes.

    Raises:
        UserError: the vocabulary does not fit the model; there is no EOS or BOS token; what transformers builds gives
            other ids than the file; or the requested library is missing or gives other ids.
    """
    from reprise.model.loading import load_config, load_tokenizer, tokenizer_file

    num_embeddings = int(load_config(model).get_text_config().vocab_size)
    file = tokenizer_file(model)
    wants_fast = library != "tokenizers"
    with ThreadPoolExecutor(1) as beside:  # both read the vocabulary, which takes as long as encoding 50 MB
        early = (
            beside.submit(lambda: _open_fastokens(file.read_text(encoding="utf-8"))) if wants_fast and file else None
        )
        tokenizer = load_tokenizer(model)
    reference = _reference(tokenizer, file, sentencepiece_file(model))
    eos_id, bos_id = special_ids(model, tokenizer)
    start_id = eos_id if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    highest = max(tokenizer.vocab_size - 1, eos_id, start_id)
    if highest >= num_embeddings:
        raise UserError(
            f"the tokenizer has ids up to {highest}, the model embeds {num_embeddings} tokens",
            where=f"model.path = {model.path}",
            remedy="use the tokenizer that belongs to the model",
        )
    name, encode, reason = "tokenizers", reference, "it was asked for"
    if wants_fast:
        fast, problem = _fastokens(tokenizer, reference, early)
        if fast is not None:
            name, encode, reason = "fastokens", fast, "it gives the ids of tokenizers"
        elif library == "fastokens":
            raise UserError(f"fastokens cannot be used: {problem}", where="tokens.tokenizer", remedy="set it to auto")
        else:
            reason = f"fastokens: {problem}"
        log.info("tokenizer: %s (%s)", name, reason)
    checked = None if encode is reference else reference
    return Tokenizer(name, encode, len(tokenizer), eos_id, bos_id, reason, checked, start_id, num_embeddings)


def special_ids(model: Model, tokenizer: Any) -> tuple[int, int | None]:
    """Ids of the tokens that end and begin a document; the second is None if nothing begins one.

    Raises:
        UserError: there is no token that ends a document.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token", where="model.eos", remedy="name one of its tokens"
        )
    if not model.bos:
        return int(tokenizer.eos_token_id), None
    if tokenizer.bos_token_id is None:
        raise UserError(
            "the tokenizer has no beginning-of-sequence token", where="model.bos = true", remedy="set it to false"
        )
    return int(tokenizer.eos_token_id), int(tokenizer.bos_token_id)


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers puts its BOS token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids at which a transformers model stops generating: from its generation settings, and its tokenizer's EOS."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None})


def _reference(tokenizer: Any, file: Path | None, sentencepiece_file: Path | None) -> EncodeBatch:
    """Encode with the model's own tokenizer file, after checking that transformers gives the same ids.

    Without a `tokenizer.json`, sentencepiece is used with `tokenizer.model`, else transformers.

    Raises:
        UserError: transformers gives other ids than the file.
    """
    if not tokenizer.is_fast:
        return _encode_with(tokenizer)
    built = _encode_with(tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    if file is None:
        return built if sentencepiece_file is None else _sentencepiece(sentencepiece_file, built)
    own_tokenizer = tokenizers.Tokenizer.from_file(str(file))
    own = _encode_with(own_tokenizer)
    texts = compared_texts(tokenizer)
    for text, theirs, right in zip(texts, built(texts), own(texts), strict=True):
        if not np.array_equal(theirs, right):
            raise UserError(
                f"the text {text[:40]!r} has the ids {_shorten(right)} by tokenizer.json, but transformers, with the "
                f"class {type(tokenizer).__name__}, gives {_shorten(theirs)}",
                where=str(file),
                remedy="the model was trained with one of them: set `tokenizer_class` in tokenizer_config.json to "
                "PreTrainedTokenizerFast for those of tokenizer.json, else replace tokenizer.json",
            )
    for token in filter(None, (tokenizer.eos_token, tokenizer.bos_token)):
        own_id, built_id = own_tokenizer.token_to_id(token), tokenizer.convert_tokens_to_ids(token)
        if own_id != built_id:
            raise UserError(
                f"{token!r} has the id {own_id} by tokenizer.json and {built_id} by transformers",
                where=str(file),
                remedy="name a token of tokenizer.json in tokenizer_config.json",
            )
    return own


def _sentencepiece(file: Path, built: EncodeBatch) -> EncodeBatch:
    """Encode with sentencepiece itself: transformers omits the normalization that `tokenizer.model` may contain.

    Raises:
        UserError: the two differ on text without anything to normalize.
    """
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):  # a file of another library under the same name
        return built

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(ids, dtype=np.uint32) for ids in processor.encode(texts)]

    if problem := _difference(PLAIN_TEXT, built(list(PLAIN_TEXT)), encode(list(PLAIN_TEXT))):
        raise UserError(
            f"transformers does not read tokenizer.model as sentencepiece does: {problem}",
            where=str(file),
            remedy="add the tokenizer.json that belongs to the model",
        )
    if problem := _difference(HARD_TEXT, built(list(HARD_TEXT)), encode(list(HARD_TEXT))):
        log.warning(
            "transformers leaves out what tokenizer.model does to rare text: %s; ours are sentencepiece's", problem
        )
    return encode


def _encode_with(tokenizer: Any) -> EncodeBatch:
    """Encode with a tokenizer of `tokenizers`, or of transformers if it is written in Python."""
    if not isinstance(tokenizer, tokenizers.Tokenizer):

        def encode_slowly(texts: list[str]) -> list[Ids]:
            encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return [np.array(ids, dtype=np.uint32) for ids in encoded]

        return encode_slowly

    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a special token spelled in the text is text

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, dtype=np.uint32) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def _fastokens(
    tokenizer: Any, reference: EncodeBatch, early: Future[EncodeBatch] | None
) -> tuple[EncodeBatch | None, str]:
    """Encode with `fastokens`; None, and the reason, if it cannot be used.

    On two cores it encodes 230 to 320 MB of English a second, `tokenizers` 5.

    Args:
        tokenizer: built by transformers.
        reference: encoder with the correct ids.
        early: the library opened with the model's file. If that fails or gives other ids, it is opened once more
            with the file as converted by transformers.
    """
    if not tokenizer.is_fast:
        return None, "the tokenizer has no tokenizer.json"
    texts = compared_texts(tokenizer)
    right = reference(texts)
    problem = ""
    for opened in (early, None):
        try:
            encode = opened.result() if opened else _open_fastokens(tokenizer.backend_tokenizer.to_str())
            problem = _difference(texts, encode(texts), right)
        except ImportError:
            return None, str(missing_extra("fastokens", "documents", "fast tokenizing")).splitlines()[0]
        except Exception as error:  # whatever the library raises for an unsupported vocabulary
            said = str(error).splitlines()[0][:100] if str(error) else repr(error)
            problem = f"it refuses the vocabulary ({said})"
        except BaseException as error:  # a Rust panic is not an Exception
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


def compared_texts(tokenizer: Any) -> list[str]:
    """Texts on which two encoders are compared: hard text, and the spelling of every added token."""
    return [*HARD_TEXT, *sorted(token.content for token in tokenizer.added_tokens_decoder.values())]


def _difference(texts: Sequence[str], got: Sequence[Ids], right: Sequence[Ids]) -> str:
    """Describe how ids differ; empty if they do not."""
    for text, ids, expected in zip(texts, got, right, strict=True):
        if not np.array_equal(ids, expected):
            return f"it gives other ids on {text[:40]!r}: {_shorten(ids)}, not {_shorten(expected)}"
    return ""


def _shorten(ids: Ids) -> str:
    shown = ", ".join(map(str, ids[:12].tolist()))
    return f"[{shown}{', ...' if len(ids) > 12 else ''}]"
