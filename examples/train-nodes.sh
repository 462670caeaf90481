#!/bin/sh
# Train on several nodes without a scheduler: run this on each of them with the same arguments.
#
#   MASTER=node-0 NODES=2 GPUS=8 sh examples/train-nodes.sh recipe.yaml [NAME=VALUE]...
#
# The stages before training run once, on one machine (`reprise tokenize recipe.yaml`); the workspace must be on a file system
# that all nodes share, because every process writes its part of a checkpoint there.
set -eu
exec torchrun --nnodes="${NODES:?number of nodes}" --nproc-per-node="${GPUS:?processes per node}" \
    --rdzv-backend=c10d --rdzv-id="${JOB:-reprise}" --rdzv-endpoint="${MASTER:?first node}:${PORT:-29400}" \
    -m reprise train "$@"
