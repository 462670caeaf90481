"""Does a model's grade of quality tell prose from debris, and does the classifier that learns from it?

    python benchmarks/grades.py --corpus CORPUS --folder FOLDER --model MODEL [--gguf-file FILE] [--encoder MODEL]

`CORPUS` has `train-en-web.jsonl.zst` and the like, one `text` per line. Prose of several sources is mixed with pages
of debris (junk.yaml: menus, links, machine lists, keywords, shop cards) and with scrambled prose, whose words are in
random order. `reprise label` has the model grade half of the pages; a classifier grades the other half. The true
grade is 4 for prose, 1 for scrambled prose and 0 for debris.

The classifier is fitted to the model's grades and, as the upper bound, to the true ones; with `--encoder` an encoder
is fine-tuned on the true ones too. Ends with one line of JSON: the share of pairs of
prose and debris (and of prose and scrambled prose) that each puts in the right order (0.5: chance), mean grades, and
seconds.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml
import zstandard
from languages import junk_pages

from reprise.documents.table import DOCUMENTS, hash_text, read_table

TRUE_GRADES = {"prose": 4, "scrambled": 1, "debris": 0}
SOURCES = ("web", "encyclopedia", "book", "paper")


def make_pages(corpus: Path, count: int) -> list[tuple[str, str]]:
    """(kind, text): `count` pages of prose, a third as many scrambled, and two thirds as many of debris."""
    rng = random.Random(1)
    prose = []
    for source in SOURCES:
        path = corpus / f"train-en-{source}.jsonl.zst"
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            texts = [json.loads(line)["text"][:1500] for line in io.TextIOWrapper(stream, encoding="utf-8")]
        prose += rng.sample(texts, count // len(SOURCES) + count // 3 // len(SOURCES))
    rng.shuffle(prose)
    scrambled = []
    for text in prose[count:]:
        words = text.split()
        rng.shuffle(words)
        scrambled.append(" ".join(words))
    parts = yaml.safe_load(Path(__file__).with_name("junk.yaml").read_text(encoding="utf-8"))["en"]
    debris = list(dict.fromkeys(text[:1500] for _, text in junk_pages(parts, 1, "en")))
    debris = rng.sample(debris, count * 2 // 3)
    return [
        *(("prose", text) for text in prose[:count]),
        *(("scrambled", text) for text in scrambled),
        *(("debris", text) for text in debris),
    ]


def write_pages(path: Path, pages: list[tuple[str, str]], **fields: object) -> None:
    """JSON Lines with the kind in the id, and the true grade."""
    rows = [
        {"id": f"{kind}-{index}", "text": text, "grade": TRUE_GRADES[kind], "lang": "en", **fields}
        for index, (kind, text) in enumerate(pages)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def label(
    folder: Path, name: str, pages: str, base: dict[str, str], quality: dict[str, object], *, check: bool = True
) -> float:
    """Run `reprise label` on a file of pages; returns the seconds."""
    recipe = {
        "name": name,
        "workspace": str(folder / name),
        "model": base,
        "documents": {
            "inputs": [{"path": str(folder / pages), "constants": {"source": "page"}}],
            "clean": {"enabled": False},
            "deduplicate": {"enabled": False},
            "quality": {"sources": ["page"], **quality},
        },
        "stages": [{"name": "none", "tokens": 1000, "mixture": {"en": {"share": 1.0, "sources": {"page": 1.0}}}}],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "reprise", "label", str(path)], check=check)
    return time.perf_counter() - began


def read_grades(folder: Path) -> dict[str, list[float]]:
    """Kind -> grades that the classifier gave."""
    grades: dict[str, list[float]] = defaultdict(list)
    for batch in read_table(folder / "label" / DOCUMENTS, ["id", "grade"]):
        for row in batch.to_pylist():
            grades[row["id"].split("-")[0]].append(row["grade"])
    return grades


def right_order(higher: list[float], lower: list[float]) -> float:
    """Share of pairs in the right order; a tie counts half (the area under the ROC curve)."""
    differences = np.subtract.outer(np.array(higher), np.array(lower))
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


def figures(grades: dict[str, list[float]], seconds: float) -> dict[str, object]:
    """What is printed of one grader."""
    return {
        "prose_before_debris": round(right_order(grades["prose"], grades["debris"]), 3),
        "prose_before_scrambled": round(right_order(grades["prose"], grades["scrambled"]), 3),
        "mean_grades": {kind: round(float(np.mean(values)), 2) for kind, values in sorted(grades.items())},
        "pages": sum(map(len, grades.values())),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Make the pages, grade them in several ways, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the runs; answers there are used again")
    parser.add_argument("--model", required=True, help="the language model that grades")
    parser.add_argument("--gguf-file")
    parser.add_argument("--encoder", help="an encoder to fine-tune on true grades")
    parser.add_argument("--pages", type=int, default=120, help="pages of prose")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    pages = make_pages(arguments.corpus, arguments.pages)
    random.Random(2).shuffle(pages)
    half = len(pages) // 2
    write_pages(folder / "asked.jsonl", pages[:half])
    write_pages(folder / "other.jsonl", pages[half:])
    base = {"path": arguments.model} | ({"gguf_file": arguments.gguf_file} if arguments.gguf_file else {})
    results: dict[str, object] = {}

    llm = {"sample_per_source": half, "max_chars": 1500, "generator": {"kind": "transformers", "max_tokens": 4}}
    seconds = label(folder, "model", "asked.jsonl", base, {"llm": llm}, check=False)  # ends in an error without a grade
    (path,) = (folder / "model").glob("label*/graded.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    answers = {row["hash"]: row["grade"] for row in map(json.loads, lines) if row["grade"] is not None}
    graded = [(kind, text, int(answers[hash_text(text)])) for kind, text in pages[:half] if hash_text(text) in answers]
    asked: dict[str, list[float]] = defaultdict(list)
    for kind, _, value in graded:
        asked[kind].append(float(value))
    unusable = {"unusable": half - len(graded), "of": half}
    results["model"] = figures(asked, seconds) | unusable if len(asked) == len(TRUE_GRADES) else unusable
    (folder / "graded.jsonl").write_text(
        "".join(f"{json.dumps({'text': text, 'grade': value, 'lang': 'en'})}\n" for _, text, value in graded),
        encoding="utf-8",
    )
    encoder = {"model": arguments.encoder, "max_length": 128, "epochs": 3}
    classifiers: dict[str, tuple[str, dict[str, object]]] = {"classifier_of_true_grades": ("asked.jsonl", {})}
    if len(asked) == len(TRUE_GRADES):
        classifiers["classifier_of_model"] = ("graded.jsonl", {})
    if arguments.encoder:
        classifiers["encoder_of_true_grades"] = ("asked.jsonl", {"classifier": "encoder", "encoder": encoder})
    for name, (file, settings) in classifiers.items():
        labelled = [{"path": str(folder / file), "fields": {"topic": "grade"}}]
        seconds = label(folder, name, "other.jsonl", base, {"labelled": labelled, **settings})
        results[name] = figures(read_grades(folder / name), seconds)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
