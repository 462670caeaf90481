"""What a busy neighbour costs a training step, by what OpenMP's threads do while they wait.

    python benchmarks/wait_policy.py

A step of a small Llama on all cores, alone and beside one and two processes that use a core each: with the defaults of
OpenMP, with the spin count that `reprise` sets (`reprise.__main__`), with no spinning at all, and with one thread less.
They take turns, so that a change of the machine meets all of them. The last line is JSON: tokens per second and ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from reprise.__main__ import SPIN_COUNT

POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "reprise": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one_thread_less": {"GOMP_SPINCOUNT": SPIN_COUNT, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))},
}


def train(seconds: float, rows: int = 2, seq_len: int = 256) -> float:
    """Tokens per second of training steps in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=9
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(8192, (rows, seq_len))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * rows * seq_len / (time.perf_counter() - start)


def measure(policy: str, neighbours: int, seconds: float) -> float:
    """Tokens per second of a process with a policy beside busy neighbours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--child", "--seconds", str(seconds)],
            env=clean | POLICIES[policy],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return float(done.stdout.split()[-1])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=6.0, help="Of one measurement.")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.child:
        print(train(arguments.seconds))
        return
    series: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for neighbours in (0, 1, 2):
            for policy in POLICIES:
                rate = measure(policy, neighbours, arguments.seconds)
                series.setdefault(f"{policy}_{neighbours}_neighbours", []).append(rate)
                print(f"{policy:15} {neighbours} neighbours: {rate:8.0f} tokens/s", flush=True)
    facts = {name: round(statistics.median(rates), 1) for name, rates in series.items()}
    ratios = {
        f"{policy}_vs_default_{n}_neighbours": round(
            facts[f"{policy}_{n}_neighbours"] / facts[f"default_{n}_neighbours"], 3
        )
        for policy in ("reprise", "passive", "one_thread_less")
        for n in (0, 1, 2)
    }
    print(json.dumps(facts | ratios | {"cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
