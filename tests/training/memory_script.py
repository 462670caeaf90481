"""Loads a model as training does and says how much memory that took; started by torchrun. Argument: folder."""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from reprise.model.objective import Objective
from reprise.recipe.model import Model
from reprise.recipe.training import Training
from reprise.training.base_model import load_base, load_weights
from reprise.training.memory import peak_memory
from reprise.training.network import Network
from reprise.training.parallel import open_processes

folder = Path(sys.argv[1])
training = Training(precision="float32", threads=1)
with open_processes(training) as processes:
    Network(Objective(load_base(Model(path=str(folder / "small")), processes)[0]), training, processes)
    before = peak_memory(processes.device)
    base, source = load_base(Model(path=str(folder / "large")), processes)
    network = Network(Objective(base), training, processes)
    assert source is not None
    load_weights(network.weights, source, processes)
    after = peak_memory(processes.device)
    total = network.weights.model.lm_head.weight.full_tensor().double().sum().item()
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps({"bytes": after - before, "sum": total}))
