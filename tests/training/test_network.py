"""What is kept, gathered, compiled and waited for in a step."""

import functools

import pytest
import torch
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training
from torch.utils._python_dispatch import TorchDispatchMode

from reprise.model.attention import CAUSAL
from reprise.training import network
from reprise.training.parallel import Processes
from reprise.training.stage import run
from reprise.training.trainer import Trainer


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_compiled_layers_meet_one_shape_and_compute_the_same(arguments, make_work, monkeypatch, checkpointing):
    """Validation is ragged and the head is looked for with two tokens; neither may go through the compiled layers."""
    compile_layer = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile_layer, backend="aot_eager"))
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 4 * 6)
    plain, compiled = make_work("plain"), make_work("compiled")
    run(plain, **{**arguments, "training": make_training(activation_checkpointing=checkpointing)})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    training = make_training(activation_checkpointing=checkpointing, compile=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(compiled, **{**arguments, "training": training})
    assert len(events(compiled, "validation")) >= 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]
    losses = [[event["loss"] for event in events(work, "step")] for work in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class _Syncs(TorchDispatchMode):
    """Counts operations whose result the host waits for."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        indexed = name == "aten::index.Tensor" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal") or indexed:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def count_waits(monkeypatch):
    """Of each update."""
    update, counts = Trainer.update, []

    def counted(trainer, *args):
        with _Syncs() as syncs:
            result = update(trainer, *args)
        counts.append(syncs.seen)
        return result

    monkeypatch.setattr(Trainer, "update", counted)
    return counts


@pytest.mark.parametrize("micro_batch_rows", [4, 1])
def test_the_host_waits_for_the_device_once_a_step(arguments, make_work, monkeypatch, micro_batch_rows):
    """With the attention of a GPU. The transfer of the sums, `tolist`, is no operation and not among the counted."""
    counts = count_waits(monkeypatch)
    monkeypatch.setattr(network, "choose_attention", lambda model, *_, **__: model.set_attn_implementation(CAUSAL))
    arguments["training"] = make_training(micro_batch_rows=micro_batch_rows)
    run(make_work(), **arguments)
    assert len(counts) == 12
    assert counts == [[]] * 12
    transfers = []
    sum_over_processes = Processes.sum
    monkeypatch.setattr(Processes, "sum", lambda self, values: transfers.append(1) or sum_over_processes(self, values))
    run(make_work("again"), **arguments)
    assert len(transfers) == 12 + len(events(make_work("again"), "validation"))


def test_recomputed_layers_are_those_of_the_copy(arguments, make_work):
    """In bf16 the model is copied, forward functions included: they must be bound to the copy's layers."""
    works = {}
    for checkpointing in ("none", "full", "selective"):
        works[checkpointing] = make_work(checkpointing)
        training = make_training(precision="bf16", activation_checkpointing=checkpointing)
        run(works[checkpointing], **{**arguments, "training": training})
    for checkpointing in ("full", "selective"):
        assert_same_weights(works["none"].output / "model", works[checkpointing].output / "model")
