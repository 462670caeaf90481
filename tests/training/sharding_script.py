"""A training stage that looks, after every micro-batch, for gradients that are not sharded.

Started by torchrun with the call as in train_script.py. Each process prints the largest number of whole gradients.
"""

import json
import sys

from tests.training.train_script import run_call
from torch.distributed.fsdp import FSDPModule

from reprise.training.network import Network
from reprise.training.trainer import Trainer


def whole_gradients(network: Network) -> int:
    """Parameters whose whole gradient this process keeps between two micro-batches."""
    count = 0
    for module in network.weights.modules():
        if isinstance(module, FSDPModule) and (group := module._get_fsdp_state()._fsdp_param_group) is not None:
            for parameter in group.fsdp_params:
                unsharded = getattr(parameter, "_unsharded_param", None)
                kept = parameter.unsharded_accumulated_grad is not None
                count += kept or (unsharded is not None and unsharded.grad is not None)
    return count


def main() -> None:
    most = [0, 0]
    begin, update = Network.begin_backward, Trainer.update

    def watched(network, *, is_last):
        most[0] = max(most[0], whole_gradients(network))
        begin(network, is_last=is_last)

    def counted(trainer, *args):
        result = update(trainer, *args)
        most[1] += 1
        return result

    Network.begin_backward, Trainer.update = watched, counted
    run_call(json.loads(sys.argv[1]))
    print(json.dumps({"whole_gradients": most[0], "steps": most[1]}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
