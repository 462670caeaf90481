"""All that only a GPU shows of training, on one of them, in at most 8 minutes; on a CPU the same with a tiny model.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 8]

Each line is PASS or FAIL with what was seen; what needs a GPU says so where there is none. First every path of the
engine: it trains, saves on the way, and trains on from that checkpoint to the same weights. Then the speed beside
transformers.Trainer, with the goals of 1.5 times its tokens and 45 % of the peak at 1 B, and where a step's time goes.
Each check runs in a process of its own. Results are written after each; with the same --out a second call leaves out
what has passed. The exit code is 1 where a line is FAIL. The last line is JSON.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import training as speed

SHARDED = {"shard_one_process": True, "activation_checkpointing": "selective", "compile": True}
PATHS: dict[str, dict] = {
    "sharded, document mask, compiled, selective, mean": {**SHARDED, "averaging": {"kind": "mean", "tokens": 1}},
    "one process, compiled": {"compile": True},
    "sharded, full recomputation, moving average": {
        "shard_one_process": True, "activation_checkpointing": "full", "averaging": {"kind": "ema", "decay": 0.5},
    },
    "gradients whole between micro-batches": {"shard_one_process": True, "gradient_accumulation": "whole"},
    "sharding: gradients": {"shard_one_process": True, "sharding": "gradients"},
    "LoRA, sharded": {"shard_one_process": True, "adapter": {"kind": "lora"}},
    "DoRA with embeddings": {"adapter": {"kind": "dora", "train_embeddings": True}},
    "bfloat16 weights rounded at random": {"master_weights": "bf16"},
    "bfloat16 weights, sharded": {"master_weights": "bf16", "shard_one_process": True},
    "step inside the backward pass": {
        "master_weights": "bf16", "step_in_backward": True, "optimizer": {"clip_norm": 0}, "micro_batch_rows": 2,
    },
    "moments in 8 bits, sharded": {"shard_one_process": True, "optimizer": {"moments": "8bit"}},
    "Muon": {"optimizer": {"kind": "muon"}},
    "offload": {"shard_one_process": True, "offload": True},
    "LoRA on 4-bit weights": {"adapter": {"kind": "lora", "base": "nf4"}},
}  # fmt: skip
ON_GPU = {"offload", "LoRA on 4-bit weights"}
"""Paths that are refused on a CPU."""

GOALS = {"tokens_per_s_vs_trainer": 1.5, "mfu": 0.45}
STEPS = 4


@dataclass(frozen=True)
class Check:
    """One line."""

    name: str
    limit_s: float
    run: Callable[[Path], tuple[bool | None, str, dict]]
    """Given a folder: passed (None: not run here), what was seen, figures."""


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def prepare(folder: Path, shape: str, rows: int, seq_len: int) -> argparse.Namespace:
    chosen = argparse.Namespace(
        shape=shape, rows=rows, seq_len=seq_len, steps=STEPS, threads=0, precision="bf16", compile=False,
        checkpointing="none",
    )  # fmt: skip
    speed.prepare(folder, chosen)
    return chosen


def train(folder: Path, name: str, chosen: argparse.Namespace, settings: dict, resume: Path | None = None) -> dict:
    """A stage of some steps; from the checkpoint of another one where `resume` names its folder."""
    from reprise.recipe.groups import Groups
    from reprise.recipe.model import Model
    from reprise.recipe.training import Training
    from reprise.training.stage import run
    from reprise.workspace import Work

    stage, rows = speed.stage_settings(chosen)
    rows = rows.model_copy(update={"document_mask": True})
    tokens = chosen.rows * chosen.seq_len
    common = {
        "batch_rows": chosen.rows, "micro_batch_rows": 1, "precision": "bf16", "validation": {"max_tokens": 500},
        "checkpoints": {"every_tokens": tokens * 2, "keep_every_tokens": tokens * 2}, "verify_model": False,
    }  # fmt: skip
    output = folder / name
    output.mkdir()
    if resume is not None:
        shutil.copytree(resume / "checkpoints" / "step-00000002", output / "checkpoints" / "step-00000002")
    work = Work(output, {"tokenize": folder / "tokenize"}, folder / "cache")
    run(work, stage=stage, stage_index=0, rows=rows, training=Training(**{**common, **settings}),
        model=Model(path=str(folder / "model")), seed=0, kept=Groups(), window=(512, 256))  # fmt: skip
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"events": [json.loads(line) for line in lines], "output": output}


def path_check(name: str) -> Check:
    def run(folder: Path) -> tuple[bool | None, str, dict]:
        if name in ON_GPU and not on_gpu():
            return None, "needs a GPU", {}
        chosen = prepare(folder, "smollm2-135m" if on_gpu() else "tiny", 2, 2048 if on_gpu() else 64)
        settings = PATHS[name]
        whole = train(folder, "whole", chosen, settings)
        again = train(folder, "again", chosen, settings, resume=whole["output"])
        resumed = [event["step"] for event in again["events"] if event["kind"] == "resume"]
        losses = [event["loss"] for event in whole["events"] if event["kind"] == "step"]
        apart = distance(whole["output"], again["output"], folder / "model")
        # On a CPU the same operations give the same bits; kernels of a GPU may add in another order.
        passed = resumed == [2] and len(losses) == STEPS and apart <= (0.05 if on_gpu() else 0.0)
        seen = f"losses {losses[0]:.3f} to {losses[-1]:.3f}; resumed at {resumed}, apart by {apart:.2g} of the way"
        peak = max(event["memory_gb"] for event in whole["events"] if event["kind"] == "step")
        return passed, f"{seen}; {peak:.2f} GB", {"losses": losses, "apart": apart, "peak_gb": peak}

    return Check(name, 75, run)


def distance(first: Path, second: Path, base: Path) -> float:
    """Norm of the difference of two published models by the norm of how far the first moved."""
    import torch
    from safetensors.torch import load_file

    a, b, start = (load_file(folder / "model.safetensors") for folder in (first / "model", second / "model", base))
    apart, moved = (
        torch.stack([(a[name].float() - other[name].float()).norm() for name in a]).norm() for other in (b, start)
    )
    return float(apart / moved)


def speed_check(name: str, *arguments: str, judged: tuple[str, ...]) -> Check:
    def run(folder: Path) -> tuple[bool | None, str, dict]:
        on_device = on_gpu()
        sizes = arguments if on_device else ("--shape", "tiny", "--rows", "2", "--seq-len", "128")
        steps = "12" if on_device else "4"
        command = [sys.executable, speed.__file__, "--rounds", "1", "--steps", steps, "--split", "--no-loss"]
        output = subprocess.run([*command, *sizes], check=True, stdout=subprocess.PIPE, text=True).stdout
        figures = json.loads(output.splitlines()[-1])
        figures["mfu"] = figures.get("reprise_mfu")
        parts = figures["step_split_ms"]
        total = sum(parts.values())
        seen = f"{figures['reprise_tokens_per_s']:,.0f} tokens/s, {figures['tokens_per_s_vs_trainer']:.2f} x Trainer, "
        seen += f"memory {figures['memory_vs_trainer']:.2f} x; " + ", ".join(
            f"{kind} {spent / total:.0%}" for kind, spent in sorted(parts.items(), key=lambda part: -part[1])
        )
        if not on_device:
            return True, f"{seen} (goals are for a GPU)", figures
        missed = [f"{key} {figures[key]} under {GOALS[key]}" for key in judged if (figures[key] or 0.0) < GOALS[key]]
        return not missed, "; ".join([seen, *missed]), figures

    return Check(name, 170, run)


CHECKS = {
    check.name: check
    for check in (
        *map(path_check, PATHS),
        speed_check("speed at 135M", "--shape", "smollm2-135m", "--rows", "4", "--seq-len", "8192",
                    judged=("tokens_per_s_vs_trainer",)),
        speed_check("speed at 1 B", "--shape", "llama-1b", "--rows", "1", "--seq-len", "8192",
                    judged=("tokens_per_s_vs_trainer", "mfu")),
    )
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("gpu.json"))
    options.add_argument("--minutes", type=float, default=8.0)
    options.add_argument("--only", help="part of the names of checks")
    options.add_argument("--child", help="name of the check to run in this process")
    chosen = options.parse_args()
    if chosen.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(CHECKS[chosen.child].run(Path(folder))))
        return
    sys.exit(run_all(chosen))


def run_all(chosen: argparse.Namespace) -> int:
    """Run the checks that have not passed; 1 where a line is FAIL."""
    deadline = time.monotonic() + 60 * chosen.minutes
    results: dict[str, dict] = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    for name, check in CHECKS.items():
        if (chosen.only or "") not in name or results.get(name, {}).get("line") == "PASS":
            continue
        start = time.monotonic()
        passed, seen, figures = in_a_process(check, deadline - start)
        line = "needs a GPU" if passed is None else "PASS" if passed else "FAIL"
        seconds = round(time.monotonic() - start, 1)
        results[name] = {"line": line, "seen": seen, "seconds": seconds, **figures}
        chosen.out.write_text(json.dumps(results, indent=1))
        print(f"{line}  {name} ({seconds} s): {seen}", flush=True)
    failed = [name for name, result in results.items() if result["line"] == "FAIL"]
    print(json.dumps({"lines": len(results), "failed": failed}))
    return 1 if failed else 0


def in_a_process(check: Check, left_s: float) -> tuple[bool | None, str, dict]:
    if left_s <= 0:
        return False, "no time was left", {}
    command = [sys.executable, __file__, "--child", check.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(left_s, check.limit_s), check=False)
    except subprocess.TimeoutExpired:
        return False, f"not done after {min(left_s, check.limit_s):.0f} s", {}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return False, f"exit code {done.returncode}: {lines[-1] if lines else 'no word'}", {}
    passed, seen, figures = json.loads(done.stdout.splitlines()[-1])
    return passed, seen, figures


if __name__ == "__main__":
    main()
