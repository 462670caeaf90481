"""Several processes against one; document masks against one forward per document."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.forked_group import run_group
from tests.training.conftest import SEQ_LEN, as_call, events, make_stage, make_training
from transformers import AutoModelForCausalLM

from reprise.mixture.sampler import Sampler
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.tokens.store import TokenStore
from reprise.training.stage import run

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])
SCRIPT = Path(__file__).with_name("train_script.py")


def run_together(processes, arguments, work, script=SCRIPT, extra=()):
    """Run the stage in processes that share its folder; returns what they wrote to stderr."""
    errors = work.output.with_suffix(".stderr")
    codes = run_group(script, [as_call(arguments, work), *extra], processes, errors)
    text = errors.read_text(encoding="utf-8")
    assert codes == [0] * processes, text[-4000:]
    return text


def torchrun(processes, arguments, work, during, script=SCRIPT, extra=()):
    """Run the stage under torchrun itself; `during` gets the process while it runs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen(
        [*command, str(script), as_call(arguments, work), *extra], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        during(process)
        return process.communicate(timeout=300)[1]


def assert_close(first, second):
    a, b = (load_file(work.output / "model" / "model.safetensors") for work in (first, second))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5, msg=name)
    losses = [[record["loss"] for record in events(work, "step")] for work in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    validations = [
        [entry["nll"] for record in events(work, "validation") for entry in record["validation"]]
        for work in (first, second)
    ]
    assert validations[0] == pytest.approx(validations[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharding,processes", [("full", 2), ("gradients", 2), ("hybrid", 4)])
def test_processes_train_like_one(arguments, make_work, sharding, processes):
    arguments["training"] = make_training(sharding=sharding, micro_batch_rows=1)
    alone, together = make_work("alone"), make_work("together")
    run(alone, **arguments)
    run_together(processes, arguments, together, extra=["2"])  # four: two nodes of two, a mesh of 2 x 2
    assert_close(alone, together)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings,whole",
    [
        ({"sharding": "full", "activation_checkpointing": "selective"}, False),
        ({"gradient_accumulation": "whole"}, True),
    ],
    ids=["sharded", "whole"],
)
def test_gradients_stay_sharded_between_micro_batches(arguments, make_work, settings, whole):
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 8 * 4)
    arguments["training"] = make_training(batch_rows=8, micro_batch_rows=1, **settings)
    alone, together = make_work("alone"), make_work("together")
    run(alone, **arguments)
    errors = run_together(2, arguments, together, script=SCRIPT.with_name("sharding_script.py"))
    # Two processes write to one pipe, so their lines may meet.
    counts = [json.loads(line) for line in re.findall(r'\{"whole_gradients"[^}]*\}', errors)]
    assert [count["steps"] for count in counts] == [4, 4]
    assert [count["whole_gradients"] > 0 for count in counts] == [whole, whole]
    assert_close(alone, together)


@pytest.mark.slow
def test_experts_that_are_stacked_while_they_load_reach_all_processes(arguments, make_work, tmp_path, base_model):
    """Their files have other names than the model, so the first process loads them and sends each its rows."""
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = tmp_path / "experts"
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert any(".experts.0." in name for name in load_file(folder / "model.safetensors"))
    arguments |= {"model": Model(path=str(folder)), "stage": make_stage(tokens=SEQ_LEN * 4 * 3)}
    arguments["training"] = make_training(micro_batch_rows=1)
    alone, together = make_work("alone"), make_work("together")
    run(alone, **arguments)
    run_together(2, arguments, together)
    assert_close(alone, together)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_document_mask_equals_one_forward_per_document(
    arguments, make_work, store_of_short_documents, base_model, packing
):
    arguments["rows"] = Rows(seq_len=256, packing=packing, document_mask=True)
    arguments["stage"] = make_stage(tokens=1024, topics={"sources": ["web"]})
    work = make_work(tokenize=store_of_short_documents)
    run(work, **arguments)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    batch = Sampler(
        TokenStore.open(store_of_short_documents), arguments["stage"], arguments["rows"], arguments["seed"]
    ).next_batch(4)
    total = tokens = 0
    for ids, documents in zip(batch.ids, batch.documents, strict=True):
        for number in np.unique(documents[documents >= 0]):
            piece = torch.from_numpy(ids[documents == number])[None]
            if piece.shape[1] > 1:
                total += model(input_ids=piece, labels=piece).loss.item() * (piece.shape[1] - 1)
                tokens += piece.shape[1] - 1
    assert max(documents.max() for documents in batch.documents) > 1
    assert events(work, "step")[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["float32", "8bit"])
def test_a_checkpoint_of_one_process_goes_on_with_two(arguments, make_work, stop_after, moments):
    """A block of 8-bit moments is a part of a row, and rows are what is sharded: its scale is the same there."""
    if moments == "8bit":
        pytest.importorskip("bitsandbytes", reason="the extra `bitsandbytes` is not installed")
    arguments["training"] = make_training(micro_batch_rows=1, optimizer={"moments": moments})
    alone, moved = make_work("alone"), make_work("moved")
    run(alone, **arguments)
    stop_after(5, moved, arguments)
    run_together(2, arguments, moved)
    assert events(moved, "resume")[0]["step"] == 5
    assert_close(alone, moved)


@pytest.mark.slow
def test_terminated_processes_save_together_and_one_goes_on(arguments, make_work):
    arguments["training"] = make_training(micro_batch_rows=1)
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 4 * 40)
    alone, moved = make_work("alone"), make_work("moved")
    run(alone, **arguments)

    def terminate(process):
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not (
            (moved.output / "metrics.jsonl").exists() and len(events(moved, "step")) >= 3
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)

    torchrun(2, arguments, moved, terminate)
    assert len(events(moved, "checkpoint")) == 1
    run(moved, **arguments)
    assert_close(alone, moved)


@pytest.mark.slow
def test_what_the_first_process_refuses_is_said_once_and_at_once(arguments, make_work):
    arguments["training"] = make_training(micro_batch_rows=1, trackers=["wandb"])
    start = time.monotonic()
    errors = torchrun(2, arguments, make_work(), lambda process: None)
    assert errors.count("reprise.errors.UserError") == 1
    assert "[rank1]" not in errors
    assert time.monotonic() - start < 30  # torchrun waits so long for a process that hangs before it kills it


@pytest.mark.slow
def test_what_one_process_sees_all_of_them_leave_out(arguments, make_work):
    script = SCRIPT.with_name("guard_script.py")
    arguments["training"] = make_training(
        micro_batch_rows=1, guards={"spike": "skip", "spike_window": 10, "retention": "off"}
    )
    alone, together = make_work("alone"), make_work("together")
    run_together(1, arguments, alone, script=script, extra=["0"])
    run_together(2, arguments, together, script=script, extra=["1"])
    for work in (alone, together):
        left_out = [step["step"] - 1 for step in events(work, "step") if step["loss"] is None]
        assert left_out == [3, 6]
        assert [(guard["guard"], guard["step"]) for guard in events(work, "guard")] == [("non_finite", 3), ("spike", 6)]
    a, b = (load_file(work.output / "model" / "model.safetensors") for work in (alone, together))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_compiled_layers_compute_the_same(arguments, make_work):
    pytest.importorskip("torch._inductor")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    arguments["stage"] = make_stage(tokens=SEQ_LEN * 4 * 2)
    plain, compiled = make_work("plain"), make_work("compiled")
    run(plain, **arguments)
    run(compiled, **{**arguments, "training": make_training(compile=True)})
    assert_close(plain, compiled)
