"""A process that trains many small stages, one after the other, with others of its group.

Starting processes and importing torch takes longer than a small stage, so that all cases of a matrix share a group.
"""

import functools
import multiprocessing.connection
import os
import socket
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from tests.forked_group import context
from tests.training.sharding_script import whole_gradients
from tests.training.train_script import run_call
from torch.distributed.tensor import DTensor

from reprise.training.network import Network

BACKEND = "aot_eager_decomp_partition"
"""Everything of torch.compile but the C++ code: tracing, the joint graph and its division, on a CPU in a second."""


class Group:
    """Processes that train together."""

    def __init__(self, size, errors):
        """Start them.

        Args:
            size: their number.
            errors: file that takes what they write to stderr.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        variables = {
            "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        self._processes, self._connections = [], []
        for rank in range(size):
            ours, theirs = context().Pipe()
            environment = {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context().Process(target=_work, args=(environment, theirs, str(errors)), daemon=True)
            process.start()
            theirs.close()  # so that the process ends with this one
            self._processes.append(process)
            self._connections.append(ours)

    def run(self, call, timeout_s=300):
        """Train a stage in all processes; returns what `_run` returns, of each.

        Args:
            call: as in `train_script.run_call`; with `local_world`, the number of processes of a node.
            timeout_s: a process that has not answered after this hangs.
        """
        for connection in self._connections:
            connection.send(call)
        answers, deadline = [], time.monotonic() + timeout_s
        while len(answers) < len(self._connections):
            ready = multiprocessing.connection.wait(self._connections, deadline - time.monotonic())
            assert ready, f"a process did not answer for {timeout_s} s: it waits for another one"
            answers += [connection.recv() for connection in ready]
            failures = [answer for answer in answers if isinstance(answer, str)]
            assert not failures, failures[0]
        return answers

    def close(self):
        """End them."""
        for process in self._processes:
            process.kill()
            process.join()


def _work(variables, connection, errors):
    os.environ.update(variables)
    with Path(errors).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend=BACKEND)
    while True:
        try:
            call = connection.recv()
        except EOFError:
            return
        try:
            connection.send(_run(call))
        except BaseException:
            connection.send(traceback.format_exc())


def _run(call):
    """Train a stage.

    Returns:
        Between two micro-batches, the most weights whose whole gradient FSDP held (`whole`), and the most weights
        whose gradient was not sharded (`plain`); and the number of forward and backward passes (`passes`).
    """
    os.environ["LOCAL_WORLD_SIZE"] = str(call["local_world"])
    seen = {"whole": 0, "plain": 0, "passes": 0}
    begin = Network.begin_backward

    def watched(network, *, is_last):
        seen["whole"] = max(seen["whole"], whole_gradients(network))
        gradients = [one.grad for one in network.weights.parameters() if one.grad is not None]
        seen["plain"] = max(seen["plain"], sum(not isinstance(gradient, DTensor) for gradient in gradients))
        seen["passes"] += 1
        begin(network, is_last=is_last)

    Network.begin_backward = watched
    try:
        run_call(call)
    finally:
        Network.begin_backward = begin
        torch._dynamo.reset()
    return seen
