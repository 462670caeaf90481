"""What each cleaning rule would drop from a sample of the documents, per language and source. Drops nothing."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from rich.console import Console
from rich.table import Table

from reprise.documents.clean.heuristics import measure_rules
from reprise.documents.clean.stage import batch_texts, repair
from reprise.documents.table import DOCUMENTS, hash_text, read_table
from reprise.recipe.documents import Clean
from reprise.tables import print_table

_EXCERPT_CHARS = 160


class Example(TypedDict):
    """A document that a rule would drop."""

    origin: str
    detail: str
    """The measured value and the limit."""
    excerpt: str


class RuleLoss(TypedDict):
    """What one rule would drop from a bucket's sample."""

    rule: str
    """Name of the setting; for n-grams followed by the size."""
    documents: int
    """Documents that break the rule, including those that break others too."""
    alone: int
    """Documents that break only this rule: those that would be kept if it were switched off."""
    examples: list[Example]


class BucketRetention(TypedDict):
    """What cleaning would keep of the sample of one language and source."""

    language: str
    source: str
    judged: bool
    """Whether the heuristics apply to this source."""
    documents: int
    kept: int
    rules: list[RuleLoss]
    """The rules that would drop something, those with the most documents first."""


class Measured(TypedDict):
    """A document to measure."""

    text: str
    origin: str


def measure_stage(read: Path, clean: Clean, *, sample: int = 500, examples: int = 2) -> list[BucketRetention]:
    """Measure the documents that the stage `read` published.

    Args:
        read: folder of the stage `read`.
        clean: settings of the cleaning.
        sample: documents per language and source: those with the smallest hash of the text.
        examples: documents to return for each rule.
    """
    buckets: dict[tuple[str, str], list[tuple[str, Measured]]] = defaultdict(list)
    for batch in read_table(read / DOCUMENTS, ["text", "lang", "source", "origin", "messages"]):
        for row in batch.to_pylist():
            if row["messages"] is not None:
                continue  # the rules do not apply to conversations
            bucket = buckets[row["lang"], row["source"]]
            bucket.append((hash_text(row["text"]), {"text": row["text"], "origin": row["origin"]}))
            if len(bucket) > 2 * sample + 1000:
                bucket[:] = _smallest(sample, bucket)
    return [
        measure_bucket(language, source, [document for _, document in _smallest(sample, bucket)], clean, examples)
        for (language, source), bucket in sorted(buckets.items())
    ]


def _smallest(count: int, bucket: list[tuple[str, Measured]]) -> list[tuple[str, Measured]]:
    return heapq.nsmallest(count, bucket, key=lambda item: item[0])


def measure_bucket(
    language: str, source: str, documents: Sequence[Measured], clean: Clean, examples: int = 2
) -> BucketRetention:
    """What cleaning would drop of some documents (text, origin) of one language and source."""
    texts = [repair(document["text"]) if clean.fix_unicode else document["text"] for document in documents]
    breaks: dict[str, dict[int, str]] = {}
    for row, text in enumerate(texts):
        if len(text) < clean.min_chars:
            breaks.setdefault("min_chars", {})[row] = f"{len(text)}, limit {clean.min_chars}"
    judged = source in clean.heuristics_sources
    if judged:
        rules = clean.rules_of(language)
        for start, batch in batch_texts(texts):
            for rule in measure_rules(batch, rules):
                name = rule.name if rule.size is None else f"{rule.name}.{rule.size}"
                for index in np.flatnonzero(rule.broken).tolist():
                    breaks.setdefault(name, {})[start + index] = rule.explain(index)
    num_broken = np.zeros(len(texts), np.int64)
    for rows in breaks.values():
        num_broken[list(rows)] += 1
    losses = [
        RuleLoss(
            rule=name,
            documents=len(rows),
            alone=int((num_broken[list(rows)] == 1).sum()),
            examples=[
                Example(
                    origin=documents[row]["origin"],
                    detail=detail,
                    excerpt=" ".join(texts[row].split())[:_EXCERPT_CHARS],
                )
                for row, detail in list(rows.items())[:examples]
            ],
        )
        for name, rows in breaks.items()
    ]
    losses.sort(key=lambda loss: (-loss["documents"], loss["rule"]))
    return BucketRetention(
        language=language,
        source=source,
        judged=judged,
        documents=len(texts),
        kept=int((num_broken == 0).sum()),
        rules=losses,
    )


def show_retention(buckets: Iterable[BucketRetention]) -> None:
    """Print the table and the examples."""
    console = Console()
    table = Table(
        "language", "source", "documents", "kept", "rule", "breaks it", "it alone", title="clean, on a sample"
    )
    buckets = list(buckets)
    for bucket in buckets:
        kept = f"{bucket['kept'] / max(1, bucket['documents']):.1%}"
        first = [bucket["language"], bucket["source"], f"{bucket['documents']:,}", kept]
        if not bucket["rules"]:
            table.add_row(*first, "", "0", "0")
        for loss in bucket["rules"]:
            table.add_row(*first, loss["rule"], f"{loss['documents']:,}", f"{loss['alone']:,}")
            first = ["", "", "", ""]
    print_table(table)
    for bucket in buckets:
        for loss in bucket["rules"]:
            for example in loss["examples"]:
                head = (
                    f"{bucket['language']}/{bucket['source']} {loss['rule']} {example['detail']}  {example['origin']}"
                )
                console.print(head, markup=False, highlight=False, soft_wrap=True)
                console.print(f"    {example['excerpt']}", markup=False, highlight=False, soft_wrap=True)
