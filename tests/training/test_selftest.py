"""The trainer against a plain PyTorch loop on the user's own model and tokens."""

import json
import shutil

import pytest
import torch
from tests.training.conftest import SEQ_LEN, make_stage, make_training
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from reprise import cli
from reprise.cli import measure
from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.recipe.training import Averaging
from reprise.training import trainer
from reprise.training.selftest import selftest


@pytest.fixture
def recipe(store, base_model, tmp_path) -> Recipe:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenize").symlink_to(store)
    stage = make_stage(schedule={"peak_lr": 1e-2, "warmup_tokens": 4 * SEQ_LEN})
    return Recipe(
        name="own",
        workspace=str(tmp_path / "run"),
        model={"path": str(base_model)},
        documents={"inputs": [{"path": "none.jsonl"}]},
        rows={"seq_len": SEQ_LEN},
        stages=[stage],
        training=make_training(optimizer={"clip_norm": 0.5}),
    )


def test_thirty_steps_are_those_of_a_plain_loop(recipe: Recipe) -> None:
    result = selftest(recipe)
    assert result["passed"]
    assert result["steps"] == 30
    assert result["last_loss"] < result["first_loss"] - 0.3
    assert max(result["loss"], result["grad_norm"], result["weights"]) < 1e-4
    assert result["movement"] < 1e-3


@pytest.mark.parametrize("rows", [{"packing": "best_fit"}, {"document_mask": True}])
def test_every_packing(recipe: Recipe, rows: dict) -> None:
    recipe = recipe.model_copy(update={"rows": recipe.rows.model_copy(update=rows)})
    result = selftest(recipe, steps=6)
    assert max(result["loss"], result["grad_norm"], result["weights"]) < 1e-4


@pytest.mark.parametrize(
    ("dtype", "tied"), [(torch.bfloat16, True), (torch.float16, True), (torch.bfloat16, False), (torch.float32, False)]
)
def test_every_stored_type_and_head(recipe: Recipe, base_model, tmp_path, dtype: torch.dtype, tied: bool) -> None:
    """The recipe averages weights, validates and saves; the self-test compares the steps without any of that."""
    folder = tmp_path / "model"
    shutil.copytree(base_model, folder)
    config = AutoConfig.from_pretrained(base_model)
    config.tie_word_embeddings = tied
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    training = recipe.training.model_copy(update={"averaging": Averaging(kind="ema", decay=0.9), "precision": "bf16"})
    recipe = recipe.model_copy(update={"model": Model(path=str(folder)), "training": training})
    result = selftest(recipe, steps=4)
    assert result["passed"], result
    assert max(result["loss"], result["grad_norm"], result["weights"]) < 1e-4
    assert result["last_loss"] != result["first_loss"]


@pytest.mark.parametrize("fault", ["no clipping", "another rate", "another loss"])
def test_a_wrong_trainer_fails(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "no clipping":
        monkeypatch.setattr(trainer, "scale_gradients", lambda gradients, factor: None)
    elif fault == "another rate":
        right = trainer.set_learning_rate
        monkeypatch.setattr(trainer, "set_learning_rate", lambda optimizer, rate: right(optimizer, 1.05 * rate))
    else:
        right = trainer.Trainer.accumulate
        monkeypatch.setattr(trainer.Trainer, "accumulate", lambda self, batch, scale: right(self, batch, scale) * 1.001)
    assert not selftest(recipe, steps=6)["passed"]


def test_the_command(recipe: Recipe, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "open_recipe", lambda *_: recipe)
    result = CliRunner().invoke(cli.app, ["selftest", "recipe.yaml", "--steps", "2", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passed"]
    (tmp_path / "run" / "tokenize").unlink()
    with pytest.raises(UserError, match="no token store"):
        selftest(recipe)
