"""A model named by its place on the Hub, from the cache of a machine without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.model.broken_models import write_whole_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
from reprise.evaluation.model import EvaluatedModel
from reprise.model.loading import copy_tokenizer_and_code, hub_commit, load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from pathlib import Path

model = Model(path="someone/model")
assert hub_commit(model) == "COMMIT"
assert load_model(model).config.vocab_size == open_tokenizer(model).vocab_size
before = EvaluatedModel(model, Evaluation(dtype="float32")).fingerprint
snapshots = Path("hub/models--someone--model")
(snapshots / "snapshots" / "COMMIT").rename(snapshots / "snapshots" / ("f" * 40))
(snapshots / "refs" / "main").write_text("f" * 40)
assert EvaluatedModel(model, Evaluation(dtype="float32")).fingerprint != before
copy_tokenizer_and_code(model, Path("copied"))
assert Path("copied/tokenizer.json").is_file()
"""


def test_a_model_of_the_hub_is_read_from_the_cache(tmp_path: Path) -> None:
    whole = write_whole_model(tmp_path / "whole")
    repository = tmp_path / "hub" / "models--someone--model"
    shutil.copytree(whole, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (tmp_path / "copied").mkdir()
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("COMMIT", COMMIT)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
