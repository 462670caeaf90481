"""Bits per byte of text under a model: equal across tokenizers, in sliding windows, cached by content.

A document follows the token that begins a text (BOS, else EOS), so that its first token is scored too. Bits per
byte = nll / ln 2 / UTF-8 bytes then counts every byte, whatever the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.pieces import measure_pieces
from reprise.model.chat import encode_documents
from reprise.model.conversation import answer_bytes, load_messages
from reprise.model.likelihood import Stretches, document_nll, fit_window
from reprise.model.loading import load_config
from reprise.progress import track
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import Group, Groups
from reprise.storage import digest

_FORMAT = 3
"""Increase it whenever the same text and model would give a different result."""

SHARD_BYTES = 2**18
"""Bytes of text that are measured, and cached, together."""


@dataclass(frozen=True)
class Text:
    """One held-out document."""

    text: str
    language: str
    source: str
    topic: str | None = None
    messages: str | None = None
    """The column `messages` of the document table if this is a conversation: then only its answers are measured."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes that are measured: all of the text, or only the answers of a conversation."""
        return len(self.text.encode()) if self.messages is None else answer_bytes(load_messages(self.messages))


def cut_texts(texts: Sequence[Text], max_bytes: int) -> list[Text]:
    """Documents with at most `max_bytes` UTF-8 bytes, all of them if it is 0; conversations are left whole."""
    if not max_bytes:
        return list(texts)
    return [
        text
        if text.messages is not None
        else replace(text, text=text.text.encode()[:max_bytes].decode(errors="ignore"))
        for text in texts
    ]


def measure_bits(
    evaluated: EvaluatedModel, texts: Sequence[Text], settings: Evaluation, *, cache: Path, what: str
) -> npt.NDArray[np.float64]:
    """Bits of each text under a model, float64[len(texts)].

    Args:
        evaluated: the model.
        texts: the documents.
        settings: window and batch.
        cache: folder where the results are cached.
        what: label of the progress bar.

    Raises:
        UserError: the tokenizer has no token that begins a text; a likelihood is not finite.
    """
    if not texts:
        return np.zeros(0)
    max_length, stride = fit_window(load_config(evaluated.settings), settings.max_length, settings.stride)
    measure = partial(_measure_texts, max_length, stride, settings.batch_tokens)
    shards = cut_shards([len(text.text.encode()) for text in texts])
    pieces = []
    for shard in shards:
        members = [texts[position] for position in shard]
        content = [text.text if text.messages is None else [text.messages] for text in members]
        key = [_FORMAT, evaluated.fingerprint, max_length, stride, content]
        pieces.append((cache / f"bits-{digest(key)}.json", members))
    missing = [piece for piece in pieces if not piece[0].exists()]
    kilobytes = sum(_kilobytes(members) for _, members in evaluated.processes.own_pieces(missing))
    with track(what, kilobytes, "kB") as advance:
        measured = measure_pieces(evaluated, pieces, measure, partial(measure, evaluated, advance=advance))
    bits = np.zeros(len(texts))
    for shard, values in zip(shards, measured, strict=True):
        bits[shard] = values
    return bits


def cut_shards(sizes: Sequence[int]) -> list[list[int]]:
    """Indices of the documents of each shard: similar in length, so that their windows share batches well.

    Args:
        sizes: bytes of each document.
    """
    shards: list[list[int]] = []
    room = 0
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        if not shards or sizes[position] > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(position)
        room -= sizes[position]
    return shards


def _kilobytes(texts: Sequence[Text]) -> float:
    """Size of the texts in 1,000 bytes, whether all of it or only answers are measured."""
    return sum(len(text.text.encode()) for text in texts) / 1000


def _measure_texts(
    max_length: int,
    stride: int,
    batch_tokens: int,
    evaluated: EvaluatedModel,
    texts: Sequence[Text],
    advance: Callable[[float], None] = lambda kilobytes: None,
) -> list[float]:
    """Bits of each text, as floats, which JSON stores exactly."""
    documents, stretches = encode(evaluated, texts)
    tokens = sum(max(0, len(ids) - 1) for ids in documents)
    kilobytes_per_token = _kilobytes(texts) / max(1, tokens)
    bits: list[float] = _measure(
        evaluated,
        documents,
        stretches,
        max_length,
        stride,
        batch_tokens,
        lambda amount: advance(amount * kilobytes_per_token),
    ).tolist()
    return bits


def _measure(
    evaluated: EvaluatedModel,
    documents: Sequence[npt.NDArray[np.int64]],
    stretches: Sequence[Stretches | None],
    max_length: int,
    stride: int,
    batch_tokens: int,
    advance: Callable[[float], None],
) -> npt.NDArray[np.float64]:
    if not evaluated.in_process:
        from reprise.evaluation.backends import document_bits

        return document_bits(
            evaluated.remote, documents, stretches, max_length=max_length, stride=stride, advance=advance
        )
    nll, _ = document_nll(
        evaluated.model,
        documents,
        max_length=max_length,
        stride=stride,
        batch_tokens=batch_tokens,
        device=evaluated.device,
        advance=advance,
        stretches=stretches,
    )
    bits: npt.NDArray[np.float64] = nll / np.log(2)
    return bits


def encode(
    evaluated: EvaluatedModel, texts: Sequence[Text]
) -> tuple[list[npt.NDArray[np.int64]], list[Stretches | None]]:
    """Token ids of each document after the token that begins a text, and which of them are measured (None: all)."""
    start = evaluated.text_tokenizer.start_id
    encoded, answers = encode_documents(
        [text.text for text in texts],
        [text.messages for text in texts],
        evaluated.text_tokenizer,
        lambda: evaluated.template,
    )
    documents = [np.array([start, *ids], dtype=np.int64) for ids in encoded]
    return documents, [None if one is None else one[:, :2] + 1 for one in answers]


def group_totals(texts: Sequence[Text], bits: npt.NDArray[np.float64], groups: Groups) -> dict[str, float]:
    """Entry or language -> bits per byte of all its texts.

    Args:
        texts: the documents.
        bits: float64[len(texts)], bits of each document.
        groups: which documents belong together.
    """
    num_bytes = byte_counts(texts)
    return {
        row.path: float(bits[row.members].sum() / num_bytes[row.members].sum())
        for row in group_texts(texts, groups)
        if row.source is None
    }


def byte_counts(texts: Sequence[Text]) -> npt.NDArray[np.float64]:
    """UTF-8 bytes of each text, float64[len(texts)]; of a conversation, those of its answers."""
    return np.array([text.num_bytes for text in texts], dtype=np.float64)


@dataclass(frozen=True)
class TextGroup:
    """The documents of one row of the results."""

    path: str
    entry: str
    language: str
    source: str | None
    topic: str | None
    tolerance: float | None
    is_judged: bool
    """Whether it gets a verdict: entries, and sources of an entry that has several; topics are only described."""
    members: npt.NDArray[np.int64]
    """Indices of its documents, int64[n]; never empty."""


def group_texts(texts: Sequence[Text], groups: Groups) -> Iterator[TextGroup]:
    """Each entry or language, then its sources, each followed by its topics; groups without a document are skipped."""
    judged = groups.over((text.language, text.source) for text in texts)
    wholes = [group for group in judged if group.source is None]
    for whole in wholes:
        inside = _members(texts, whole)
        if not len(inside):
            continue
        yield TextGroup(whole.path, whole.path, whole.language, None, None, whole.tolerance, True, inside)
        for source in sorted({texts[position].source for position in inside}):
            part = next((group for group in judged if group.path == f"{whole.path}/{source}"), None)
            if part is None and groups.entry_of(whole.language, source) != whole.path:
                continue  # a language that is divided into entries: its sources are listed under them
            members = np.array([position for position in inside if texts[position].source == source])
            path, tolerance = f"{whole.path}/{source}", None if part is None else part.tolerance
            yield TextGroup(path, whole.path, whole.language, source, None, tolerance, part is not None, members)
            topics = {topic for position in members if (topic := texts[position].topic) is not None}
            for topic in sorted(topics):
                own = np.array([position for position in members if texts[position].topic == topic])
                yield TextGroup(f"{path}/{topic}", whole.path, whole.language, source, topic, None, False, own)


def _members(texts: Sequence[Text], group: Group) -> npt.NDArray[np.int64]:
    return np.array(
        [position for position, text in enumerate(texts) if group.contains(text.language, text.source)], dtype=np.int64
    )
