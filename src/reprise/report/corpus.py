"""The document stages -> what the report says about the text: flow, drops with examples, rejects, perplexity.

Published files never change, so what was read from them is cached: `reprise watch` reads often.
"""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reprise.documents.label.report import read_grades
from reprise.documents.read.record import Reject
from reprise.documents.table import DOCUMENTS, DROPPED, count_rows, list_parts
from reprise.report.corpus_records import (
    BucketDocuments,
    CorpusFacts,
    DropExample,
    DropFacts,
    FlowRow,
    GradeFacts,
    PerplexityFacts,
    RejectExample,
    RejectFacts,
)
from reprise.stage_names import DOCUMENT_STAGES, SYNTHESIZE, TOKENIZE
from reprise.workspace import Workspace

EXAMPLES = 3
"""Examples shown for each reason of drops and rejects."""

EXCERPT_CHARS = 400
"""Maximum length of an excerpt of a document."""


def corpus_facts(workspace: Workspace) -> CorpusFacts:
    """What the document stages of a run have done so far."""
    return {
        "flow": _flow(workspace),
        "drops": [drop for stage in (*DOCUMENT_STAGES, SYNTHESIZE, TOKENIZE) for drop in _drops(workspace, stage)],
        "rejects": _rejects(stage_folder(workspace, "read") / "rejects.jsonl"),
        "buckets": _buckets(workspace),
        "perplexity": _perplexity(workspace),
        "grades": _grades(workspace),
    }


def _grades(workspace: Workspace) -> list[GradeFacts]:
    """Measured accuracy of the quality classifier, one entry per language it was fitted for."""
    reports = read_grades(stage_folder(workspace, "label"))
    return [
        {"language": language, "figures": report["figures"]}
        for language, report in reports.items()
        if "figures" in report
    ]


def stage_folder(workspace: Workspace, stage: str) -> Path:
    """The published folder of a stage, or its unpublished one if the stage is not finished."""
    folder = workspace.folder(stage)
    return folder if folder.exists() else workspace.root / f"{stage}.partial"


def _flow(workspace: Workspace) -> list[FlowRow]:
    """Documents that each published stage before the synthesis wrote and dropped."""
    flow: list[FlowRow] = []
    for stage in DOCUMENT_STAGES:
        folder = workspace.folder(stage)
        if (folder / DOCUMENTS).exists():
            documents, dropped = count_rows(folder / DOCUMENTS), count_rows(folder / DROPPED)
            flow.append({"stage": stage, "documents": documents, "dropped": dropped})
    return flow


def _drops(workspace: Workspace, stage: str) -> list[DropFacts]:
    """Drops of a stage, one entry per reason, the most frequent first."""
    documents: Counter[str] = Counter()
    languages: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[str, list[DropExample]] = defaultdict(list)
    for part in list_parts(stage_folder(workspace, stage) / DROPPED):
        counts, part_examples = _dropped_part(part, part.stat().st_mtime_ns)
        for (reason, language), count in counts.items():
            documents[reason] += count
            languages[reason][language] += count
        for reason, shown in part_examples.items():
            examples[reason] += shown[: EXAMPLES - len(examples[reason])]
    return [
        {
            "stage": stage,
            "reason": reason,
            "documents": count,
            "languages": dict(languages[reason].most_common()),
            "examples": examples[reason],
        }
        for reason, count in documents.most_common()
    ]


@functools.lru_cache(maxsize=4096)
def _dropped_part(part: Path, _changed_ns: int) -> tuple[dict[tuple[str, str], int], dict[str, list[DropExample]]]:
    """Documents per (reason, language) of one part, and the first few of each reason."""
    grouped = (
        pq.read_table(part, columns=["reason", "lang"]).group_by(["reason", "lang"]).aggregate([([], "count_all")])
    )
    counts = {(row["reason"], row["lang"]): row["count_all"] for row in grouped.to_pylist()}
    missing = {reason: EXAMPLES for reason, _ in counts}
    examples: dict[str, list[DropExample]] = defaultdict(list)
    for batch in pq.ParquetFile(part).iter_batches(batch_size=256):
        for row in batch.to_pylist():
            if missing.get(row["reason"], 0) > 0:
                missing[row["reason"]] -= 1
                examples[row["reason"]].append(
                    {
                        "id": row["id"],
                        "lang": row["lang"],
                        "source": row["source"],
                        "origin": row["origin"],
                        "detail": row["detail"],
                        "excerpt": excerpt(row["text"]),
                    }
                )
        if not any(missing.values()):
            break
    return counts, examples


def excerpt(text: str, limit: int = EXCERPT_CHARS) -> str:
    """The beginning of a text, with an ellipsis if it was cut."""
    return text if len(text) <= limit else text[:limit].rstrip() + " ..."


def _rejects(path: Path) -> list[RejectFacts]:
    """Unreadable documents per reason, with examples."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[RejectExample]] = defaultdict(list)
    for reject in _read_rejects(path):
        counts[reject.reason] += 1
        if len(examples[reject.reason]) < EXAMPLES:
            examples[reject.reason].append(
                {"file": reject.file, "line": reject.line, "excerpt": excerpt(reject.excerpt)}
            )
    return [
        {"reason": reason, "documents": count, "examples": examples[reason]} for reason, count in counts.most_common()
    ]


def _read_rejects(path: Path) -> Iterator[Reject]:
    """Read rejects.jsonl, which another process may be writing: an unfinished last line is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if line.endswith("\n") and line.strip():
                yield Reject(**json.loads(line))


def _last_documents(workspace: Workspace) -> list[Path]:
    """Document folders of the training text: the last published document stage, and the synthetic text."""
    published = [stage for stage in DOCUMENT_STAGES if (workspace.folder(stage) / DOCUMENTS).exists()]
    folders = [workspace.folder(stage) / DOCUMENTS for stage in [*published[-1:], SYNTHESIZE]]
    return [folder for folder in folders if folder.exists()]


def _buckets(workspace: Workspace) -> list[BucketDocuments]:
    """Training and held-out documents of each language, source and topic."""
    sums: dict[tuple[str, str, str | None], Counter[str]] = defaultdict(Counter)
    for folder in _last_documents(workspace):
        for part in list_parts(folder):
            for key, split, count in _bucket_part(part, part.stat().st_mtime_ns):
                sums[key][split] += count
    return [
        {
            "language": key[0],
            "source": key[1],
            "topic": key[2],
            "train": sums[key]["train"],
            "valid": sums[key]["valid"],
        }
        for key in sorted(sums, key=lambda key: (key[0], key[1], key[2] or ""))
    ]


@functools.lru_cache(maxsize=4096)
def _bucket_part(part: Path, _changed_ns: int) -> list[tuple[tuple[str, str, str | None], str, int]]:
    columns = ["lang", "source", "topic", "split"]
    grouped = pq.read_table(part, columns=columns).group_by(columns).aggregate([([], "count_all")])
    return [((row["lang"], row["source"], row["topic"]), row["split"], row["count_all"]) for row in grouped.to_pylist()]


def _perplexity(workspace: Workspace) -> list[PerplexityFacts]:
    """Distribution of the perplexity of the training documents, per language and source."""
    folder = stage_folder(workspace, "score") / DOCUMENTS
    values: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for part in list_parts(folder):
        for key, ppl in _perplexity_part(part, part.stat().st_mtime_ns).items():
            values[key].append(ppl)
    return [_distribution(key, np.concatenate(parts)) for key, parts in sorted(values.items())]


@functools.lru_cache(maxsize=4096)
def _perplexity_part(part: Path, _changed_ns: int) -> dict[tuple[str, str], np.ndarray]:
    """(language, source) -> float32 perplexities of the scored training documents of one part."""
    table = pq.read_table(part, columns=["lang", "source", "split", "ppl"])
    table = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.is_finite(table["ppl"])))
    grouped = table.group_by(["lang", "source"]).aggregate([("ppl", "list")])
    keys = zip(grouped["lang"].to_pylist(), grouped["source"].to_pylist(), strict=True)
    return {key: ppl.values.to_numpy().astype(np.float32) for key, ppl in zip(keys, grouped["ppl_list"], strict=True)}


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def _distribution(key: tuple[str, str], ppl: np.ndarray) -> PerplexityFacts:
    """Quantiles, and a histogram over log-spaced bins between the 0.5 % and the 99.5 % quantile."""
    low, high = np.quantile(ppl, [0.005, 0.995])
    high = max(high, low * 1.01)
    num_bins = int(np.clip(2 * len(ppl) ** (1 / 3), 8, 48))
    edges = np.geomspace(low, high, num_bins + 1)
    counts, _ = np.histogram(np.clip(ppl, edges[0], edges[-1]), edges)
    return {
        "language": key[0],
        "source": key[1],
        "documents": len(ppl),
        "quantiles": {
            f"{share:g}": float(value) for share, value in zip(QUANTILES, np.quantile(ppl, QUANTILES), strict=True)
        },
        "bin_edges": [float(edge) for edge in edges],
        "bin_documents": [int(count) for count in counts],
    }
