"""Loads a model as training does and says how much memory that took; started by torchrun. Argument: folder."""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.recipe.training import Training
from reprise.training.memory import peak_memory
from reprise.training.network import Network, load_base
from reprise.training.parallel import open_processes
from reprise.training.sharded_weights import read_shards

folder = Path(sys.argv[1])
training = Training(precision="float32", threads=1)
with open_processes(training) as processes:
    Network(Objective(load_base(Model(path=str(folder / "small")), processes)[0]), training, processes)
    before = peak_memory(processes.device)
    base, places = load_base(Model(path=str(folder / "large")), processes)
    network = Network(Objective(base), training, processes)
    assert places is not None
    read_shards(network.weights, places, processes)
    after = peak_memory(processes.device)
    total = network.weights.model.lm_head.weight.full_tensor().double().sum().item()
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps({"bytes": after - before, "sum": total}))
