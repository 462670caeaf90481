"""Full training in less memory: weights that are rounded at random, steps inside the backward pass, Muon."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.training.conftest import SEQ_LEN, assert_same_weights, events, make_stage, make_training, weights_of

from reprise.errors import UserError
from reprise.training.check_settings import check_processes
from reprise.training.network import Network
from reprise.training.parallel import Processes
from reprise.training.single_adamw import SingleAdamW, round_at_random
from reprise.training.stage import run

NARROW = {"precision": "bf16", "master_weights": "bf16"}
INSIDE = {"step_in_backward": True, "optimizer": {"clip_norm": 0}, "micro_batch_rows": 4}
MUON = {"optimizer": {"kind": "muon"}}
EIGHT_BIT = {"optimizer": {"moments": "8bit"}}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `bitsandbytes` is not installed"
)


def settings_of(arguments, *, steps=6, **training):
    stage = make_stage(tokens=SEQ_LEN * 4 * steps, schedule={"peak_lr": 3e-3})
    seldom = {"every_tokens": 0, "max_tokens": 64}  # a validation takes longer than these steps
    return {**arguments, "stage": stage, "training": make_training(**{"validation": seldom, **training})}


def losses(work):
    return [event["loss"] for event in events(work, "step")]


def movement(folder, base):
    """Norm of how far the weights moved."""
    after, before = weights_of(folder), weights_of(base)
    return float(torch.stack([(after[name].float() - before[name].float()).norm() for name in before]).norm())


@given(value=st.floats(-(2.0**100), 2.0**100, width=32), seed=st.integers(0, 2**60))
def test_a_value_is_rounded_to_one_of_its_neighbours(value, seed):
    values = torch.full((64,), value)
    rounded = round_at_random(values, torch.Generator().manual_seed(seed)).float()
    nearest = values.bfloat16().float()
    step = 2 * max((nearest - values).abs().max().item(), abs(value) * 2**-8, 2e-40)
    assert ((rounded - values).abs() <= step).all()
    if (nearest == values).all():
        assert torch.equal(rounded, values)


def test_rounding_is_right_in_the_mean():
    values = torch.linspace(-3, 3, 50)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([round_at_random(values, generator).float() for _ in range(4000)])
    spread = values.abs().clamp(min=1e-3) * 2**-7 / 4000**0.5
    assert ((drawn.mean(0) - values).abs() < 4 * spread).all()


def test_small_changes_add_up_only_where_they_are_rounded_at_random():
    weight = torch.nn.Parameter(torch.ones(500, dtype=torch.bfloat16))
    optimizer = SingleAdamW([{"params": [weight], "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8, seed=1)
    plain = torch.ones(500, dtype=torch.bfloat16)
    optimizer.param_groups[0]["lr"] = 1e-4
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        plain -= 1e-4
    assert plain.unique().tolist() == [1.0]
    assert weight.float().mean().item() == pytest.approx(0.9, abs=2e-3)


def test_in_float32_it_is_the_adamw_of_torch():
    torch.manual_seed(0)
    shapes = [(300, 7), (5,), (2, 3)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    one = SingleAdamW([{"params": ours, "weight_decay": 0.1}], betas=(0.9, 0.95), eps=1e-8)
    other = torch.optim.AdamW(theirs, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(6):
        for first, second in zip(ours, theirs, strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 1e-2 / (step + 1)
        one.step()
        other.step()
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "training",
    [
        NARROW,
        {**NARROW, "shard_one_process": True},
        INSIDE,
        {**INSIDE, **NARROW},
        MUON,
        pytest.param(EIGHT_BIT, marks=needs_bitsandbytes),
        pytest.param({**EIGHT_BIT, "shard_one_process": True}, marks=needs_bitsandbytes),
        pytest.param({**INSIDE, **NARROW, "optimizer": {"clip_norm": 0, "moments": "8bit"}}, marks=needs_bitsandbytes),
    ],
    ids=[
        "bf16",
        "bf16 sharded",
        "inside",
        "bf16 inside",
        "muon",
        "8 bits",
        "8 bits sharded",
        "8 bits, bf16 inside",
    ],
)
def test_a_stopped_run_resumes_exactly(arguments, make_work, stop_after, training):
    settings = settings_of(arguments, averaging={"kind": "ema", "decay": 0.5}, **training)
    whole, stopped = make_work("whole"), make_work("stopped")
    run(whole, **settings)
    stop_after(3, stopped, settings)
    run(stopped, **settings)
    assert [event["step"] for event in events(stopped, "resume")] == [3]
    assert_same_weights(whole.output / "model", stopped.output / "model")
    assert losses(stopped)[-3:] == losses(whole)[-3:]


@pytest.mark.parametrize("sharded", [False, True])
def test_bfloat16_weights_learn_what_float32_weights_learn(arguments, make_work, base_model, sharded):
    wide, narrow = make_work("wide"), make_work("narrow")
    common = {"precision": "bf16", "shard_one_process": sharded}
    run(wide, **settings_of(arguments, steps=20, **common))
    run(narrow, **settings_of(arguments, steps=20, master_weights="bf16", **common))
    assert losses(wide)[0] == pytest.approx(losses(narrow)[0], rel=1e-3)
    gained = [losses(work)[0] - losses(work)[-1] for work in (wide, narrow)]
    assert gained[0] > 0.1
    assert gained[1] == pytest.approx(gained[0], rel=0.1)
    moved = [movement(work.output / "model", base_model) for work in (wide, narrow)]
    assert moved[1] == pytest.approx(moved[0], rel=0.1)


@needs_bitsandbytes
@pytest.mark.parametrize("row", [64, 192, 256, 1000], ids=lambda row: f"rows of {row}")
def test_moments_in_8_bits_step_like_float32_ones(row):
    """Rows of 1,000 keep float32 moments. Gradients of each row differ by orders of magnitude."""
    torch.manual_seed(row)
    start = torch.randn(6, row)
    scales = 10.0 ** torch.arange(-6, 0)[:, None]
    moved = []
    for eight_bit in (False, True):
        generator = torch.Generator().manual_seed(7)
        weight = torch.nn.Parameter(start.clone())
        groups = [{"params": [weight], "weight_decay": 0.0}]
        optimizer = SingleAdamW(groups, betas=(0.9, 0.95), eps=1e-12, eight_bit=eight_bit)
        optimizer.param_groups[0]["lr"] = 1e-3
        for _ in range(30):
            weight.grad = scales * (0.5 + torch.randn(6, row, generator=generator))
            optimizer.step()
        state = optimizer.state[weight]
        assert (state["exp_avg"].dtype == torch.uint8) is (eight_bit and row != 1000)
        moved.append(weight.detach() - start)
    assert (moved[0] - moved[1]).norm() <= (0.03 if row != 1000 else 0.0) * moved[0].norm()
    if row != 1000:
        num_bytes = sum(one.numel() * one.element_size() for name, one in state.items() if name != "step")
        assert num_bytes <= (2 + 8 / 64) * weight.numel()


@needs_bitsandbytes
def test_a_second_moment_beside_a_far_larger_one_does_not_become_zero():
    """Its root divides the update: with zero one weight would move by the first moment over eps."""
    weight = torch.nn.Parameter(torch.zeros(1, 64))
    optimizer = SingleAdamW([{"params": [weight], "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-12, eight_bit=True)
    optimizer.param_groups[0]["lr"] = 1.0
    weight.grad = torch.full((1, 64), 1e-5)
    weight.grad[0, 0] = 1.0
    optimizer.step()
    assert (optimizer.state[weight]["exp_avg_sq"] > 0).all()
    weight.grad = torch.zeros(1, 64)
    before = weight.detach().clone()
    optimizer.step()
    assert (weight - before).abs().max() < 1.0


@needs_bitsandbytes
def test_moments_in_8_bits_learn_what_float32_ones_learn(arguments, make_work):
    wide, small = make_work("wide"), make_work("small")
    run(wide, **settings_of(arguments, steps=20))
    run(small, **settings_of(arguments, steps=20, **EIGHT_BIT))
    gained = [losses(work)[0] - losses(work)[-1] for work in (wide, small)]
    assert gained[0] > 0.1
    assert gained[1] == pytest.approx(gained[0], rel=0.1)


def test_a_step_inside_the_backward_pass_is_an_ordinary_step(arguments, make_work, base_model, monkeypatch):
    alive, step_weight = [], SingleAdamW.step_weight

    def counted(optimizer, weight):
        alive.append(sum(one.grad is not None for one in optimizer.weights()))
        step_weight(optimizer, weight)

    monkeypatch.setattr(SingleAdamW, "step_weight", counted)
    for precision, exact in (("float32", 1e-5), ("bf16", 2e-3)):
        ordinary, inside = make_work(f"ordinary-{precision}"), make_work(f"inside-{precision}")
        common = {**INSIDE, "precision": precision}
        run(ordinary, **settings_of(arguments, **{**common, "step_in_backward": False}))
        alive.clear()
        run(inside, **settings_of(arguments, **common))
        assert set(alive) == {1}
        assert losses(inside) == pytest.approx(losses(ordinary), rel=exact)
        norms = [[event["grad_norm"] for event in events(work, "step")] for work in (inside, ordinary)]
        assert norms[0] == pytest.approx(norms[1], rel=10 * exact)
        a, b = (weights_of(work.output / "model") for work in (inside, ordinary))
        apart = torch.stack([(a[name] - b[name]).norm() for name in a]).norm()
        assert apart < (1e-3 if precision == "float32" else 0.1) * movement(inside.output / "model", base_model)


def test_a_gradient_that_is_not_finite_stops_a_step_inside_the_backward_pass(arguments, make_work, monkeypatch):
    begin = Network.step_in_backward

    def broken(network, loss, optimizer):
        next(iter(network.weights.model.model.layers[0].parameters())).register_hook(lambda gradient: gradient * 1e40)
        return begin(network, loss, optimizer)

    monkeypatch.setattr(Network, "step_in_backward", broken)
    with pytest.raises(UserError, match=r"gradient of model\.model\.layers\.0\S+ is not finite"):
        run(make_work(), **settings_of(arguments, **INSIDE))


def test_muon_trains_the_matrices_of_the_blocks(arguments, make_work, base_model):
    model = make_work("muon"), make_work("adamw")
    run(model[0], **settings_of(arguments, steps=1, **MUON))
    run(model[1], **settings_of(arguments, steps=1))
    muon, adamw, base = (weights_of(folder) for folder in (*(work.output / "model" for work in model), base_model))
    for name in base:
        in_block = "layers." in name and base[name].dim() == 2
        assert torch.allclose(muon[name], adamw[name], atol=1e-7) == (not in_block), name
    change = muon["model.layers.0.mlp.up_proj.weight"] - base["model.layers.0.mlp.up_proj.weight"]
    values = torch.linalg.svdvals(change)
    assert values.max() / values.min() < 4, "the update of a matrix is not near orthogonal"


@pytest.mark.parametrize("training", [MUON, NARROW], ids=["muon", "bf16"])
def test_one_process_that_shards_trains_like_one_that_does_not(arguments, make_work, base_model, training):
    works = [make_work(name) for name in ("plain", "sharded")]
    for work, sharded in zip(works, (False, True), strict=True):
        run(work, **settings_of(arguments, steps=3, shard_one_process=sharded, **training))
    assert losses(works[0]) == pytest.approx(losses(works[1]), rel=1e-5 if training is MUON else 5e-3)


@pytest.mark.parametrize(
    "training,message",
    [
        ({"precision": "float32", "master_weights": "bf16"}, "computes in bf16"),
        ({"optimizer": {"kind": "muon", "moments": "8bit"}}, "8bit works with AdamW"),
        ({"adapter": {"kind": "lora"}, **EIGHT_BIT}, "8bit works with AdamW"),
        ({**NARROW, "adapter": {"kind": "lora"}}, "adapter, whose few weights are float32"),
        ({**NARROW, **MUON}, "Muon, which does not round"),
        ({"step_in_backward": True}, "cannot clip"),
        ({**INSIDE, "micro_batch_rows": 2}, "batch in one pass"),
        ({**INSIDE, "adapter": {"kind": "lora"}}, "works with AdamW on all weights"),
        ({**MUON, "adapter": {"kind": "lora"}}, "whole matrices"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(training, message):
    with pytest.raises(ValidationError, match=message):
        make_training(**training)


def test_settings_that_do_not_fit_the_machine_are_refused():
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="bfloat16 weights need bfloat16 computation"):
        training = make_training(precision="auto", master_weights="bf16").model_copy(update={"precision": "float32"})
        check_processes(training, Processes(0, 1, cpu))
    for world, sharded in ((2, False), (1, True)):
        with pytest.raises(UserError, match="for one process that does not shard"):
            check_processes(make_training(**INSIDE, shard_one_process=sharded), Processes(0, world, cpu))
    for device, world in (("cpu", 2), ("cuda", 1)):
        with pytest.raises(UserError, match="offloaded from GPUs"):
            check_processes(make_training(offload=True), Processes(0, world, torch.device(device)))
    check_processes(make_training(offload=True, shard_one_process=True), Processes(0, 1, torch.device("cuda")))
