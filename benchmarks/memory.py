"""The estimate of memory beside what training takes: three models, each with every way of keeping activations.

    python benchmarks/memory.py [--rows 2] [--seq-len 1024] [--precision float32]

Each measurement is a whole training stage of four steps in a process of its own, on the CPU; its figure is the
largest resident memory of that process. `--fake` prints estimates for 8 B and 70 B on GPUs instead, which nothing here
measures. The last line is JSON: the ratio of estimate to measurement of each, and the largest error.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import training as speed

MODES = ("none", "selective", "full")
SHAPES = {
    "wide": {"vocab_size": 8192, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4,
             "num_attention_heads": 12, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "deep": {"vocab_size": 4096, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 20,
             "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": False},
    "large vocabulary": {"vocab_size": 65536, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
                         "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip
LLAMAS = {
    "8B": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
    "70B": {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False},
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=2)
    options.add_argument("--seq-len", type=int, default=1024)
    options.add_argument("--precision", default="float32", choices=["bf16", "float32"])
    options.add_argument("--fake", action="store_true")
    options.add_argument("--child", nargs=3, metavar=("SHAPE", "MODE", "FOLDER"))
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(chosen, *chosen.child)))
        return
    print(json.dumps(fake() if chosen.fake else compare(chosen)))


def settings(chosen: argparse.Namespace, shape: str, mode: str) -> argparse.Namespace:
    """As benchmarks/training.py takes them."""
    speed.SHAPES |= SHAPES
    return argparse.Namespace(
        shape=shape, rows=chosen.rows, seq_len=chosen.seq_len, steps=4, threads=1, precision=chosen.precision,
        compile=False, checkpointing=mode,
    )  # fmt: skip


def compare(chosen: argparse.Namespace) -> dict:
    from transformers import LlamaConfig

    from reprise.training.memory_estimate import Setup, estimate_memory, measure_shape

    ratios = {}
    for shape, values in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            speed.prepare(Path(folder), settings(chosen, shape, "none"))
            for mode in MODES:
                command = [sys.executable, __file__, *sys.argv[1:], "--child", shape, mode, folder]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                measured = json.loads(output.splitlines()[-1])["peak_gb"]
                setup = Setup("cpu", 1, 1, 2 if chosen.precision == "bf16" else 4, chosen.seq_len, chosen.rows, 1,
                              "full", "sharded", mode, False)  # fmt: skip
                parts = estimate_memory(measure_shape(LlamaConfig(**values), setup), setup)
                ratios[f"{shape}, {mode}"] = round(parts["total"] / 1e9 / measured, 3)
                print(
                    f"{shape}, {mode}: estimate {parts['total'] / 1e9:.3f} GB, measured {measured:.3f} GB", flush=True
                )
    return {"estimate_vs_measured": ratios, "largest_error": max(abs(ratio - 1) for ratio in ratios.values())}


def measure(chosen: argparse.Namespace, shape: str, mode: str, folder: str) -> dict:
    return {"peak_gb": speed.run_reprise(settings(chosen, shape, mode), Path(folder))["peak_gb"]}


def fake() -> dict:
    from transformers import LlamaConfig

    from reprise.training.memory_estimate import Setup, estimate_memory, measure_shape

    result = {}
    for name, values in LLAMAS.items():
        for gpus in (8, 64):
            for mode in MODES:
                setup = Setup("cuda", gpus, 8, 2, 8192, 1, 8, "full", "sharded", mode, False)
                total = estimate_memory(measure_shape(LlamaConfig(**values), setup), setup)["total"]
                result[f"{name}, {gpus} GPUs, {mode}"] = round(total / 1e9, 1)
    return {"gb_per_gpu": result}


if __name__ == "__main__":
    main()
