"""A run of two stages as training would do it, with everything that can change the order of its rows."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.tokens.stores import build_store, random_documents

from reprise.mixture.batch import Batch
from reprise.mixture.sampler import Sampler
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.storage import write_json
from reprise.tokens.store import TokenStore

BATCH_ROWS = 12
OBSERVE_EVERY = 4


def make_store(root: Path, more_books: int = 0) -> TokenStore:
    documents = [
        *random_documents(9, more_books, 25, "em-", lang="en", source="book"),
        *random_documents(1, 60, 25, "eb-", lang="en", source="book"),
        *random_documents(2, 50, 25, "el-", lang="en", source="web", topic="Law"),
        *random_documents(3, 20, 25, "ea-", lang="en", source="web", topic="Arts"),
        *random_documents(4, 40, 25, "zl-", lang="zh", source="web", topic="Law"),
        *random_documents(5, 15, 25, "zo-", lang="zh", source="web", topic="Others"),
        *random_documents(6, 30, 25, "sy-", lang="en", source="synthetic"),
    ]
    return build_store(root, documents)


def make_stages(tokens: int = 12_000, policy: str = "topic_perplexity", **first: Any) -> list[Stage]:
    """Small buckets, so that several epochs end and one bucket runs out."""
    zh = {"share": 0.3, "sources": {"web": 1.0}}
    topics = {"sources": ["web"], "policy": {"name": policy, "alpha": 3.0, "max_step": 0.05, "cap": 0.9}}
    return [
        Stage.model_validate(
            {
                "name": "one",
                "tokens": tokens,
                "mixture": {"zh": zh, "en": {"share": 0.7, "sources": {"book": 0.4, "web": 0.6}}},
                "topics": topics,
                "curriculum": {"zh": {"order": "ascending"}, "en/book": {"order": "segments", "segments": 3}},
                "max_epochs": 4,
                **first,
            }
        ),
        Stage.model_validate(
            {
                "name": "two",
                "tokens": tokens // 3,
                "mixture": {
                    "zh": zh,
                    "en": {"share": 0.5, "sources": {"book": 0.4, "web": 0.6}},
                    "synthetic": {"share": 0.2, "language": "en", "sources": {"synthetic": 1.0}},
                },
                "topics": {**topics, "initial": "inherit"},
                "curriculum": {"zh": {"order": "ascending"}},
                "max_epochs": 9,
            }
        ),
    ]


def digest_batch(batch: Batch) -> str:
    buckets = ",".join(bucket.path for bucket in batch.buckets)
    return hashlib.sha256(batch.ids.tobytes() + batch.documents.tobytes() + buckets.encode()).hexdigest()


def losses_at(step: int, sampler: Sampler) -> dict[Any, float]:
    """Held-out losses that move up and down, each topic in its own way."""
    return {
        (bucket.entry, bucket.source, bucket.topic): 3.0 + 0.3 * math.sin(step * (1 + number))
        for number, bucket in enumerate(sampler.buckets)
    }


def steps(
    store: TokenStore,
    stages: list[Stage],
    rows: Rows,
    checkpoint: Path | None = None,
    every: int = 5,
    world: int = 1,
) -> Iterator[tuple[int, list[Batch]]]:
    """Train; go on from the checkpoint if there is one. Yields the step and the batch of each process."""
    saved: dict[str, Any] = {"step": 0, "stage": 0, "previous": None, "state": None}
    if checkpoint is not None and checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
    step, previous, state = saved["step"], saved["previous"], saved["state"]
    for number in range(saved["stage"], len(stages)):
        samplers = [Sampler(store, stages[number], rows, 17, previous) for _ in range(world)]
        for sampler in samplers:
            if state is not None:
                sampler.load_state(state)
        while not samplers[0].finished:
            if step % OBSERVE_EVERY == 0:
                for sampler in samplers:
                    sampler.observe(losses_at(step, sampler))
            if step in (7, 30):
                for sampler in samplers:
                    sampler.set_shares({"zh": 0.2 + step / 100}, "user")
            yield step, [sampler.next_batch(BATCH_ROWS, rank, world) for rank, sampler in enumerate(samplers)]
            step += 1
            if checkpoint is not None and step % every == 0:
                now = {"step": step, "stage": number, "previous": previous, "state": samplers[-1].state()}
                write_json(checkpoint, now)
        previous, state = json.loads(json.dumps(samplers[0].state())), None
