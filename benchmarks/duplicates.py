"""Recall and precision of the deduplication on planted copies of known Jaccard similarity.

    python benchmarks/duplicates.py [--pairs 4000] [--thresholds 0.7 0.8 0.9] [--lang en]

Each pair is a text of random words (or, with `--lang zh`, characters) and a copy in which a run in the middle was
replaced, 0 to 45 % of it; its similarity is counted on the shingles of both. A pair is found if the stage drops one of
the two. Recall: of the pairs at the threshold or above it. Precision: of the pairs that were found, those at the
threshold or above it. Ends with one line of JSON.
"""

import argparse
import itertools
import json
import random
import tempfile
from pathlib import Path

from reprise.documents.deduplicate import stage as deduplicate
from reprise.documents.table import DOCUMENTS, DROPPED, TableWriter, read_table
from reprise.recipe.documents import Deduplicate
from reprise.workspace import Work

EDGES = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
LENGTHS = {"en": 200, "zh": 320}


def make_words(rng: random.Random, lang: str, count: int) -> list[str]:
    return [chr(0x4E00 + rng.randrange(5000)) if lang == "zh" else f"w{rng.randrange(5000)}" for _ in range(count)]


def jaccard(one: list[str], other: list[str], size: int) -> float:
    left, right = ({tuple(words[i : i + size]) for i in range(len(words) - size + 1)} for words in (one, other))
    return len(left & right) / len(left | right)


def plant(pairs: int, lang: str) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Rows, and pair -> similarity."""
    rng = random.Random(1)
    settings = Deduplicate()
    size = settings.shingle_chars if lang == "zh" else settings.shingle_words
    rows, similarity = [], {}
    for number in range(pairs):
        words = make_words(rng, lang, LENGTHS[lang])
        count = round(len(words) * rng.random() * 0.45)
        start = rng.randrange(len(words) - count + 1)
        copy = [*words[:start], *make_words(rng, lang, count), *words[start + count :]]
        similarity[str(number)] = jaccard(words, copy, size)
        for name, side in (("a", words), ("b", copy)):
            text = ("" if lang == "zh" else " ").join(side)
            place = {"lang": lang, "source": "web", "split": "train", "origin": f"{number}-{name}"}
            rows.append({"id": f"{number}-{name}", "text": text, **place})
    return rows, similarity


def find_pairs(rows: list[dict[str, str]], threshold: float) -> tuple[set[str], tuple[int, int]]:
    """Pairs of which one text was dropped, and (bands, rows of a band)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "out").mkdir()
        with TableWriter(root / "clean" / DOCUMENTS) as writer:
            writer.write(rows)
        work = Work(output=root / "out", inputs={"clean": root / "clean"}, cache=root / "cache")
        deduplicate.run(work, deduplicate=Deduplicate(threshold=threshold), engine="native")
        dropped = [name for batch in read_table(root / "out" / DROPPED, ["id"]) for name in batch["id"].to_pylist()]
        return {name.split("-")[0] for name in dropped}, (work.counts["bands"], work.counts["band_rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--lang", choices=sorted(LENGTHS), default="en")
    chosen = parser.parse_args()
    rows, similarity = plant(chosen.pairs, chosen.lang)
    bins = list(itertools.pairwise(EDGES))
    header = ["threshold", "bands x rows", *(f"{low:g}-{high:g}" for low, high in bins)]
    print("| " + " | ".join([*header, "recall", "precision", "precision, 0.05 below allowed"]) + " |")
    print("|---" * (len(header) + 3) + "|")
    results = {}
    for threshold in chosen.thresholds:
        found, (bands, band_rows) = find_pairs(rows, threshold)
        shares = []
        for low, high in bins:
            inside = {name for name, value in similarity.items() if low <= value < high or value == high == 1.0}
            shares.append(len(inside & found) / max(1, len(inside)))
        wanted = {name for name, value in similarity.items() if value >= threshold}
        near = {name for name, value in similarity.items() if value >= threshold - 0.05}
        recall, precision = len(wanted & found) / len(wanted), len(wanted & found) / max(1, len(found))
        loose = len(near & found) / max(1, len(found))
        figures = [*shares, recall, precision, loose]
        print(f"| {threshold:g} | {bands} x {band_rows} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
        results |= {f"recall_{threshold:g}": round(recall, 4), f"precision_{threshold:g}": round(precision, 4)}
        results[f"precision_{threshold:g}_near"] = round(loose, 4)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
