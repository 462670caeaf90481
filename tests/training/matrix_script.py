"""Trains many cells of the matrix of settings in one group of processes; started by torchrun.

Arguments: a file with a list of cells {call, again, local_world}: `call` as in train_script.py, with a checkpoint on
the way; `again` is a folder in which training resumes from that checkpoint. The first process writes beside it, as
NAME.json, the largest number of whole gradients that any process kept between two micro-batches of each cell.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tests.training.sharding_script import whole_gradients
from tests.training.train_script import run_call

from reprise.training.network import Network
from reprise.training.parallel import start_processes


def resume(call: dict, again: Path) -> None:
    """Train from the checkpoint on the way to the end once more."""
    if dist.get_rank() == 0:
        shutil.copytree(Path(call["output"]) / "checkpoints", again / "checkpoints")
    dist.barrier()
    run_call({**call, "output": str(again)})


def main() -> None:
    start_processes(120)
    torch.set_num_threads(1)
    most, begin = [0], Network.begin_backward
    compile_layer = torch.nn.Module.compile

    def watched(network, *, is_last):
        most[0] = max(most[0], whole_gradients(network))
        begin(network, is_last=is_last)

    Network.begin_backward = watched
    # The compiler of kernels takes minutes here; what FSDP and checkpointing do with compiled layers is in the capture.
    torch.nn.Module.compile = lambda self, **options: compile_layer(self, backend="aot_eager", **options)
    results = []
    for cell in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["LOCAL_WORLD_SIZE"] = str(cell["local_world"])
        torch._dynamo.reset()
        most[0] = 0
        run_call(cell["call"])
        resume(cell["call"], Path(cell["again"]))
        counts = [0] * dist.get_world_size()
        dist.all_gather_object(counts, most[0])
        results.append(max(counts))
    if dist.get_rank() == 0:
        Path(sys.argv[1]).with_suffix(".results").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
