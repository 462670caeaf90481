"""Lines that several documents contain are removed from all but one of them.

Three steps like those of near copies: each part writes the hashes of its lines, each range of hashes decides which
lines go, and whoever writes the documents looks up the lines of its rows.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reprise.documents.deduplicate.exact import hash_normal
from reprise.documents.deduplicate.records import Range, Records, load_range
from reprise.documents.deduplicate.shingles import normalise_texts
from reprise.recipe.documents import RepeatedLines

REASON = "repeated_lines"

LINE = np.dtype([("hash", np.uint64), ("priority", np.uint64), ("key", np.int64), ("index", np.int32)])
"""Line `index` of the document in row `key` of the table; `priority` is that of records.BAND."""
REMOVED_LINE = np.dtype([("key", np.int64), ("index", np.int32)])
"""A line that is removed."""


def hash_lines(
    rows: pa.RecordBatch, priorities: NDArray[np.uint64], first_key: int, dropped: set[int], settings: RepeatedLines
) -> Records:
    """LINE[lines]: the lines that are compared, of the documents that are.

    Args:
        rows: documents.
        priorities: uint64[documents], which order them.
        first_key: key of the first row.
        dropped: keys of the documents that are dropped as copies.
        settings: which lines are compared.
    """
    sources, messages = rows["source"].to_pylist(), rows["messages"].to_pylist()
    lines: list[str] = []
    places: list[tuple[int, int]] = []
    for row, text in enumerate(rows["text"].to_pylist()):
        if first_key + row in dropped or sources[row] not in settings.sources or messages[row] is not None:
            continue
        for index, line in enumerate(text.split("\n")):
            if len(line) >= settings.min_chars and sum(map(str.isalnum, line)) >= settings.min_chars:
                lines.append(line)
                places.append((row, index))
    records = np.zeros(len(lines), LINE)
    if lines:
        of, records["index"] = np.array(places).T
        records["hash"] = hash_normal(normalise_texts(lines))[:, 0]
        records["key"], records["priority"] = first_key + of, priorities[of]
    return records


def find_repeated(records: Records, max_documents: int, first_train: np.uint64) -> Records:
    """REMOVED_LINE[lines]: those in more than `max_documents` documents, without those of the first document.

    Args:
        records: LINE[lines], all lines of the hashes that occur.
        max_documents: a line in so many documents stays.
        first_train: smallest priority of a training document; held-out ones, which come before, keep their lines.
    """
    records = records[np.lexsort([records["index"], records["key"], records["priority"], records["hash"]])]
    if not len(records):
        return np.zeros(0, REMOVED_LINE)
    new_hash = np.ones(len(records), bool)
    new_hash[1:] = records["hash"][1:] != records["hash"][:-1]
    new_document = new_hash.copy()
    new_document[1:] |= records["key"][1:] != records["key"][:-1]
    of = np.cumsum(new_hash) - 1
    documents = np.bincount(of[new_document])[of]
    before = np.cumsum(new_document)
    rank = before - before[np.flatnonzero(new_hash)][of]
    goes = (documents > max_documents) & (rank > 0) & (records["priority"] >= first_train)
    removed = np.zeros(int(goes.sum()), REMOVED_LINE)
    removed["key"], removed["index"] = records["key"][goes], records["index"][goes]
    return removed


def removed_on(folder: Path, first: int, end: int) -> dict[int, set[int]]:
    """Key -> the lines that the document loses, for those in [first, end) that lose any."""
    removed: dict[int, set[int]] = {}
    for key, index in load_range(folder, "key", Range(0, first, end), REMOVED_LINE).tolist():
        removed.setdefault(key, set()).add(index)
    return removed


def without_lines(text: str, removed: set[int]) -> tuple[str, str]:
    """The text without the lines at these indices, and these lines; empty lines that would meet become one."""
    kept: list[str] = []
    gone: list[str] = []
    after_gap = False
    for index, line in enumerate(text.split("\n")):
        if index in removed:
            gone.append(line)
            after_gap = True
        elif line.strip():
            kept.append(line)
            after_gap = False
        elif not after_gap or (kept and kept[-1].strip()):
            kept.append(line)
    while after_gap and kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept), "\n".join(gone)
