"""Several processes against one; document masks against one forward per document."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import SEQ_LEN, events, make_stage, make_training
from transformers import AutoModelForCausalLM

from reprise.mixture.sampler import Sampler
from reprise.recipe.tokens import Rows
from reprise.tokens.store import TokenStore
from reprise.training.stage import run

SCRIPT = Path(__file__).with_name("train_script.py")


def torchrun(processes, arguments, work):
    """Run the stage under torchrun; `processes` share the folder."""
    settings = {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in arguments.items()
    }
    call = {"output": str(work.output), "inputs": {k: str(v) for k, v in work.inputs.items()}, "settings": settings}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [*command, str(SCRIPT), json.dumps(call)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]


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
@pytest.mark.parametrize("sharding", ["full", "gradients", "hybrid"])
def test_two_processes_train_like_one(arguments, make_work, sharding):
    arguments["training"] = make_training(sharding=sharding, micro_batch_rows=1)
    alone, together = make_work("alone"), make_work("together")
    run(alone, **arguments)
    torchrun(2, arguments, together)
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
