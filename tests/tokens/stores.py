"""Small token stores whose tokens say where they come from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from reprise.model.tokenizer import Tokenizer
from reprise.tokens.builder import StoreBuilder
from reprise.tokens.store import TokenStore

EOS = 1


def number_tokenizer(vocab_size: int = 60_000, bos_id: int | None = None) -> Tokenizer:
    """The text `5 8 13` has the ids 5, 8, 13."""

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([int(word) for word in text.split()], dtype=np.uint32) for text in texts]

    return Tokenizer("numbers", encode, vocab_size, EOS, bos_id, "for tests")


def document(
    id: str,
    ids: Iterable[int],
    lang: str = "en",
    source: str = "web",
    topic: str | None = None,
    split: str = "train",
    ppl: float | None = None,
    grade: float | None = None,
) -> dict[str, Any]:
    return {
        "id": id,
        "text": " ".join(map(str, ids)),
        "lang": lang,
        "source": source,
        "topic": topic,
        "split": split,
        "ppl": ppl,
        "grade": grade,
    }


def build_store(root: Path, documents: list[dict[str, Any]], split_sources: tuple[str, ...] = ("web",)) -> TokenStore:
    root.mkdir(parents=True, exist_ok=True)
    builder = StoreBuilder(root, number_tokenizer(), split_sources)
    for start in range(0, len(documents), 7):
        builder.add(documents[start : start + 7])
    return builder.finish()


def random_documents(
    seed: int, count: int, mean_tokens: int, name: str = "d", low: int = 2, high: int = 50_000, **fields: Any
) -> list[dict[str, Any]]:
    """Documents of geometric length with random tokens and perplexities."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / mean_tokens, count)
    return [
        document(f"{name}{i:05d}", rng.integers(low, high, n), ppl=float(rng.integers(5, 40)), **fields)
        for i, n in enumerate(lengths)
    ]
