#!/bin/sh
# Training on one GPU beside transformers.Trainer: under 9 minutes, no network. Each line of JSON is one comparison.
#
#   sh benchmarks/gpu.sh
#
# Exits with the status of the first comparison that fails. Needs torch for the GPU, transformers and this package with
# its core dependencies (pip install --no-deps -e . will do where numpy, pyarrow, pydantic, pyyaml, rich, safetensors,
# typer and xxhash are there).
set -eu
cd "$(dirname "$0")/.."
output=$(mktemp)
trap 'rm -f "$output"' EXIT
run() { # not through a pipe: its status would be that of tail
    timeout 170 python benchmarks/training.py --rounds 1 --steps 12 --seq-len 8192 --split "$@" > "$output"
    tail -n 1 "$output"
}
run --shape smollm2-135m --rows 4
run --shape llama-1b --rows 1 --no-loss
run --shape llama-1b --rows 2 --checkpointing full --no-loss
