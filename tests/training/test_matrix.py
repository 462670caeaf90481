"""Family x sharding x checkpointing x compile x adapter x precision, on several processes against one.

Each pair of values of two settings occurs in some cell. One group of processes walks all cells, so its start is paid
once; what one process gives does not depend on sharding, checkpointing and compilation, and is worked out once.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.conftest import SEQ_LEN, as_call, assert_same_weights, events, make_stage, make_training, weights_of
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.training.stage import run

pytest.importorskip("peft")

SETTINGS = {
    "family": ("tied", "untied", "experts"),
    "sharding": ("full", "gradients", "hybrid"),
    "checkpointing": ("none", "selective", "full"),
    "compile": (False, True),
    "adapter": ("none", "lora", "dora"),
    "precision": ("float32", "bf16"),
}
CELLS = [
    ("tied", "full", "none", False, "none", "float32"),
    ("tied", "gradients", "selective", True, "lora", "bf16"),
    ("tied", "hybrid", "full", True, "dora", "float32"),
    ("untied", "full", "selective", True, "dora", "float32"),
    ("untied", "gradients", "full", False, "none", "bf16"),
    ("untied", "hybrid", "none", True, "lora", "float32"),
    ("experts", "full", "full", True, "lora", "bf16"),
    ("experts", "gradients", "none", False, "dora", "float32"),
    ("experts", "hybrid", "selective", True, "none", "bf16"),
    ("tied", "full", "none", False, "dora", "bf16"),
    ("untied", "hybrid", "selective", False, "lora", "float32"),
]
ON_FOUR = (2, 3, 8)
"""Cells that four processes train too, as two nodes of two."""
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LENGTH = 32


def test_every_pair_of_values_occurs_in_a_cell():
    for (one, first), (other, second) in itertools.combinations(enumerate(SETTINGS.values()), 2):
        assert {(cell[one], cell[other]) for cell in CELLS} == set(itertools.product(first, second)), (one, other)


@pytest.fixture(scope="module")
def models(tmp_path_factory, base_model):
    """Folder of each family."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    shape = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    made = {
        "tied": LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)),
        "untied": LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False)),
        "experts": MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=2)),
    }
    folders = {}
    for name, model in made.items():
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture
def matrix(arguments, models, make_work):
    """Cell -> arguments of the stage."""

    def settings(cell):
        family, sharding, checkpointing, compiled, adapter, precision = cell
        return arguments | {
            "model": Model(path=str(models[family])),
            "rows": Rows(seq_len=LENGTH),
            "stage": make_stage(tokens=LENGTH * 8 * 3, schedule={"peak_lr": 1e-3}),
            "window": (LENGTH, LENGTH // 2),
            "training": make_training(
                batch_rows=8,
                micro_batch_rows=1,
                sharding=sharding,
                activation_checkpointing=checkpointing,
                compile=compiled,
                precision=precision,
                adapter={"kind": adapter, "rank": 4, "train_embeddings": adapter == "dora"},
                validation={"max_tokens": LENGTH * 2},
                guards={"retention": "off"},
                checkpoints={"every_tokens": LENGTH * 8 * 2},
            ),
        }

    return settings


def plain(cell):
    """The cell whose result one process is to give: nothing that must not matter."""
    family, _, _, _, adapter, precision = cell
    return family, "full", "none", False, adapter, precision


def train_cells(cells, processes, matrix, make_work, tmp_path):
    """Train all cells in one group of processes; gives folders of each, and whole gradients of each."""
    works, calls = [], []
    for index, cell in enumerate(cells):
        work, again = (make_work(f"{processes}-{index}-{name}") for name in ("work", "again"))
        works.append((work, again))
        local_world = 2 if processes == 4 else 1
        calls.append(
            {
                "call": json.loads(as_call(matrix(cell), work)),
                "again": str(again.output),
                "local_world": local_world,
            }
        )
    path = tmp_path / f"cells-{processes}.json"
    path.write_text(json.dumps(calls))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("matrix_script.py")), str(path)],
        env=environment, stderr=subprocess.PIPE, text=True, timeout=850, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return works, json.loads(path.with_suffix(".results").read_text())


def moved_apart(first, second, base):
    """Distance of two models by the distance that the first moved from where both began."""
    a, b, start = (weights_of(folder) for folder in (first, second, base))
    assert a.keys() == b.keys()
    apart = torch.stack([(a[name] - b[name]).double().norm() for name in a]).norm()
    moved = torch.stack([(a[name] - start[name]).double().norm() for name in a]).norm()
    return float(apart / moved)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_cells_train_like_one_process_and_resume_exactly(processes, matrix, models, make_work, tmp_path):
    cells = CELLS if processes == 2 else [CELLS[index] for index in ON_FOUR]
    works, whole_gradients = train_cells(cells, processes, matrix, make_work, tmp_path)
    alone = {}
    for cell, (work, again), whole in zip(cells, works, whole_gradients, strict=True):
        if plain(cell) not in alone:
            alone[plain(cell)] = make_work(f"alone-{processes}-{len(alone)}")
            run(alone[plain(cell)], **matrix(plain(cell)))
        reference = alone[plain(cell)]
        assert whole == 0, cell
        assert [event["step"] for event in events(again, "resume")] == [2], cell
        assert_same_weights(work.output / "model", again.output / "model")
        losses = [[event["loss"] for event in events(one, "step")] for one in (reference, work)]
        exact = cell[-1] == "float32"
        assert losses[1] == pytest.approx(losses[0], rel=1e-5 if exact else 2e-3), cell
        distance = moved_apart(reference.output / "model", work.output / "model", models[cell[0]])
        assert distance < (0.01 if exact else 0.15), (cell, distance)
        assert SEQ_LEN > LENGTH
