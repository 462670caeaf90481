"""Stage `deduplicate`: exact copies, then near copies by MinHash with locality-sensitive hashing, across all sources.

Which copy stays depends on the documents alone: one that is held out before one to train on, then the smallest
(hash of the text, origin, source, id). Near copies are taken in that order: a document is dropped if it is similar
enough to one that was kept, so every drop names a document that is still there.
"""

import functools
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from daft import DataType, col
from numpy.typing import NDArray

from reprise.documents.engine import Engine, run_pieces
from reprise.documents.part_step import Outcome, Place, pass_through, run_step
from reprise.documents.table import DOCUMENTS, hash_text, list_parts
from reprise.documents.words import mix, normalise
from reprise.recipe.documents import Deduplicate
from reprise.recipe.languages.codes import WITHOUT_SPACES
from reprise.workspace import Work

_SPACE = re.compile(r"\s+")
_NOT_IN_WORDS = re.compile(r"[\W_]+")
_PARTNERS = 8
"""A document is compared with so many of the first documents of its bucket: linear cost in large buckets."""
_SEPARATOR = "\x1f"
_CANDIDATE_PROBABILITY = 0.99
_BATCH_ROWS = 1000


def run(work: Work, *, deduplicate: Deduplicate, engine: Engine) -> None:
    """Write `documents/` and `dropped/` of the stage."""
    if not deduplicate.enabled:
        pass_through(work, "clean")
        return
    source = work.inputs["clean"].resolve() / DOCUMENTS
    scratch = work.output.resolve() / "scratch"
    parts = list_parts(source)
    bands, band_rows = choose_bands(deduplicate)
    sign = functools.partial(_sign_part, deduplicate, bands, band_rows, str(source), str(scratch / "signatures"))
    num_bytes = sum(part.stat().st_size for part in parts)
    pieces = [{"number": number, "part": part.name} for number, part in enumerate(parts)]
    run_pieces(sign, pieces, engine=engine, what="sign", num_bytes=2 * num_bytes)
    _write_decisions(scratch, [part.name for part in parts], deduplicate.threshold)
    step = functools.partial(_drop_copies, str(scratch / "decisions"))
    run_step(work, "clean", step, engine=engine, what="deduplicate")
    shutil.rmtree(scratch)
    work.counts.update(bands=bands, band_rows=band_rows)


def choose_bands(settings: Deduplicate) -> tuple[int, int]:
    """Bands and hashes to a band: the longest bands that still make two documents at the threshold candidates with
    probability 0.99. Two documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands.
    """
    if settings.bands:
        return settings.bands, settings.permutations // settings.bands
    for rows in range(settings.permutations, 0, -1):
        bands = settings.permutations // rows
        if 1 - (1 - settings.threshold**rows) ** bands >= _CANDIDATE_PROBABILITY:
            return bands, rows
    return settings.permutations, 1


def shingle_text(text: str, lang: str) -> str:
    """What MinHash sees: normalised words, or characters in languages without spaces, parted by single spaces."""
    words = _NOT_IN_WORDS.sub(" ", normalise(text)).strip()
    return " ".join(words.replace(" ", "")) if lang in WITHOUT_SPACES else words


def estimate_similarity(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of signatures, uint32[pairs, permutations]: the share of equal hashes."""
    return np.asarray((one == other).mean(axis=1))


def _sign_part(
    settings: Deduplicate, bands: int, band_rows: int, source: str, target: str, piece: dict[str, Any]
) -> int:
    """Runs in a worker: one row of numbers to each document."""
    Path(target).mkdir(parents=True, exist_ok=True)
    path = Path(target, piece["part"])
    columns = ["id", "text", "lang", "source", "split", "origin"]
    key = piece["number"] << 32
    with pq.ParquetFile(Path(source, piece["part"])) as file, pq.ParquetWriter(path, _signature_schema()) as writer:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            writer.write_table(_sign_rows(batch.to_pylist(), settings, bands, band_rows, key))
            key += batch.num_rows
    return int(key)


def _signature_schema() -> pa.Schema:
    return pa.schema(
        {
            "key": pa.int64(),
            "exact": pa.string(),
            "order": pa.string(),
            "priority": pa.uint64(),
            "bands": pa.list_(pa.uint64()),
            "signature": pa.list_(pa.uint32()),
        }
    )


def _sign_rows(rows: list[dict[str, Any]], settings: Deduplicate, bands: int, band_rows: int, key: int) -> pa.Table:
    signatures = sign_texts([row["text"] for row in rows], [row["lang"] for row in rows], settings)
    hashes = _hash_bands(signatures, bands, band_rows)
    orders, priorities = [], []
    for number, row in enumerate(rows):
        rank = 0 if row["split"] == "valid" else 1
        text_hash = hash_text(row["text"])
        names = [f"{rank}{text_hash}", row["origin"], row["source"], row["id"], f"{key + number:020d}"]
        orders.append(_SEPARATOR.join(names))
        priorities.append((rank << 63) | (int(text_hash[:16], 16) >> 1))
    return pa.table(
        [
            list(range(key, key + len(rows))),
            [hash_text(_SPACE.sub("", normalise(row["text"]))) for row in rows],
            orders,
            priorities,
            [[] if (signatures[number] == 0xFFFFFFFF).all() else hashes[number] for number in range(len(rows))],
            list(signatures),
        ],
        schema=_signature_schema(),
    )


def sign_texts(texts: Sequence[str], langs: Sequence[str], settings: Deduplicate) -> NDArray[np.uint32]:
    """MinHash signatures, uint32[texts, permutations]; all ones for a text without a word."""
    signatures = np.full((len(texts), settings.permutations), 0xFFFFFFFF, np.uint32)
    for by_chars, size in ((True, settings.shingle_chars), (False, settings.shingle_words)):
        chosen = [number for number, lang in enumerate(langs) if (lang in WITHOUT_SPACES) == by_chars]
        if chosen:
            shingled = [shingle_text(texts[number], langs[number]) for number in chosen]
            hashed = daft.Series.from_pylist(shingled).minhash(settings.permutations, size).to_arrow()
            signatures[chosen] = np.asarray(hashed.flatten()).reshape(len(chosen), settings.permutations)
    return signatures


def _hash_bands(signatures: NDArray[np.uint32], bands: int, band_rows: int) -> NDArray[np.uint64]:
    """uint64[documents, bands]; the number of the band is part of its hash."""
    parts = signatures[:, : bands * band_rows].reshape(len(signatures), bands, band_rows)
    hashes = np.broadcast_to(mix(np.arange(bands, dtype=np.uint64)), parts.shape[:2])
    for row in range(band_rows):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, row])
    return hashes


def _write_decisions(scratch: Path, parts: list[str], threshold: float) -> None:
    """Decide on every document, and write (row, reason, detail) of those that go, part by part."""
    decisions: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    if parts:
        frame = daft.read_parquet(str(scratch / "signatures" / "*.parquet"))
        copies = _find_exact_copies(frame)
        near = _find_near_copies(frame, copies, threshold)
        for row in copies.to_pylist():
            origin = row["best"].split(_SEPARATOR)[1]
            decisions[parts[row["key"] >> 32]].append((row["key"] & 0xFFFFFFFF, "exact_duplicate", f"copy of {origin}"))
        origins = _find_origins(frame, {kept for kept, _ in near.values()})
        for key, (kept, similarity) in near.items():
            detail = f"similarity {similarity:.2f} to {origins[kept]}"
            decisions[parts[key >> 32]].append((key & 0xFFFFFFFF, "near_duplicate", detail))
    (scratch / "decisions").mkdir()
    schema = pa.schema({"row": pa.int64(), "reason": pa.string(), "detail": pa.string()})
    for part in parts:
        rows = [dict(zip(schema.names, decision, strict=True)) for decision in sorted(decisions[part])]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), scratch / "decisions" / part)


def _find_exact_copies(frame: daft.DataFrame) -> daft.DataFrame:
    """(key, best): documents that equal another but for white space, case and full width, and the one that stays."""
    best = frame.groupby("exact").agg(col("order").min().alias("best"), col("key").count().alias("copies"))
    several = best.where(col("copies") > daft.lit(1)).select("exact", "best")
    joined = frame.select("key", "exact", "order").join(several, on="exact")
    return joined.where(col("order") != col("best")).select("key", "best").collect()


def _find_near_copies(frame: daft.DataFrame, copies: daft.DataFrame, threshold: float) -> dict[int, tuple[int, float]]:
    """Key of each near copy -> (key of the document that stays, estimated similarity)."""
    once = frame.join(copies.select("key"), on="key", how="anti").select("key", "priority", "bands", "signature")
    member = daft.functions.to_struct(priority=col("priority"), key=col("key"))
    buckets = (
        once.select(member.alias("member"), col("bands"))
        .explode("bands")
        .where(col("bands").not_null())
        .groupby("bands")
        .agg(col("member").list_agg().alias("members"))
        .where(col("members").list_count() > daft.lit(1))
    )
    pairs = buckets.select(_pair_up(col("members")).alias("pair")).explode("pair")
    pairs = pairs.select(col("pair").get("kept").alias("kept"), col("pair").get("key").alias("key")).distinct()
    signatures = once.select("key", "priority", "signature")
    left = signatures.select(col("key").alias("kept"), col("priority").alias("first"), col("signature").alias("one"))
    compared = pairs.join(left, on="kept").join(signatures, on="key")
    compared = compared.with_column("similarity", _compare(col("one"), col("signature")))
    edges = compared.where(col("similarity") >= daft.lit(threshold)).select(
        "kept", "key", "first", "priority", "similarity"
    )
    return choose_copies(edges.to_pylist())


def choose_copies(edges: Sequence[dict[str, Any]]) -> dict[int, tuple[int, float]]:
    """Walk the documents in order of priority; drop one that has an edge to a document that was kept before it.

    Args:
        edges: {kept, key, first, priority, similarity}: a pair of keys, the priorities of both, and their similarity.

    Returns:
        key of a dropped document -> (key of its most similar kept one, similarity).
    """
    before: dict[tuple[int, int], list[tuple[float, tuple[int, int]]]] = defaultdict(list)
    for edge in edges:
        first, second = sorted([(edge["first"], edge["kept"]), (edge["priority"], edge["key"])])
        before[second].append((edge["similarity"], first))
    dropped: dict[tuple[int, int], tuple[int, float]] = {}
    for document in sorted(before):
        kept = [(-similarity, other) for similarity, other in before[document] if other not in dropped]
        if kept:
            distance, (_, key) = min(kept)
            dropped[document] = (key, -distance)
    return {key: found for (_, key), found in dropped.items()}


@daft.func.batch(
    return_dtype=DataType.list(DataType.struct({"kept": DataType.int64(), "key": DataType.int64()})), use_process=False
)
def _pair_up(buckets: daft.Series) -> list[list[dict[str, int]]]:
    """Each document of a bucket with the first few before it."""
    result = []
    for members in buckets.to_pylist():
        keys = [key for _, key in sorted((member["priority"], member["key"]) for member in members)]
        result.append(
            [{"kept": kept, "key": key} for place, key in enumerate(keys) for kept in keys[: min(place, _PARTNERS)]]
        )
    return result


@daft.func.batch(return_dtype=DataType.float64(), use_process=False)
def _compare(one: daft.Series, other: daft.Series) -> NDArray[np.float64]:
    if not len(one):
        return np.zeros(0)
    left, right = (np.asarray(side.to_arrow().flatten()).reshape(len(one), -1) for side in (one, other))
    return estimate_similarity(left, right)


def _find_origins(frame: daft.DataFrame, keys: set[int]) -> dict[int, str]:
    """Key -> origin."""
    if not keys:
        return {}
    wanted = daft.from_pydict({"key": sorted(keys)})
    rows = frame.select("key", "order").join(wanted, on="key").to_pylist()
    return {row["key"]: row["order"].split(_SEPARATOR)[1] for row in rows}


def _drop_copies(decisions: str, rows: pa.Table, place: Place) -> Outcome:
    """Runs in a worker."""
    listed = pq.read_table(Path(decisions, place.part)).to_pylist()
    last = place.first_row + rows.num_rows
    return Outcome(
        drops=[
            (drop["row"] - place.first_row, drop["reason"], drop["detail"])
            for drop in listed
            if place.first_row <= drop["row"] < last
        ]
    )
