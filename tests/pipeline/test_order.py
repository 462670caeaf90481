"""`reprise order` and `reprise verify` from the command line, on a run of a tiny model."""

import pytest
import yaml
from tests.pipeline.conftest import small_recipe
from typer.testing import CliRunner

from reprise.cli import app
from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.recipe import load_recipe
from reprise.tokens.store import TokenStore
from reprise.training.checkpoint import read_facts


def reprise(*arguments):
    """What a command prints; in this process, which is how it differs from a user's."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("order")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe(folder / "run", tiny_model), allow_unicode=True), encoding="utf-8")
    reprise("train", path, "stages.1.tokens=1024")
    return path


@pytest.fixture
def printed(monkeypatch):
    """(row, bucket) of every line of the printed order."""
    monkeypatch.setenv("COLUMNS", "400")

    def order(*arguments):
        cells = [line.split("│") for line in reprise("order", *arguments).splitlines()]
        return [(int(row[2]), row[3].strip()) for row in cells if len(row) == 9]

    return order


def dealt(recipe, stage, previous=None):
    loaded = load_recipe(recipe, ["stages.1.tokens=1024"])
    store = TokenStore.open(recipe.parent / "run" / "tokenize")
    sampler = Sampler(store, loaded.stages[stage - 1], loaded.rows, loaded.seed, previous)
    return list(enumerate((bucket.path for bucket in sampler.next_batch(sampler.total_rows).buckets), start=1))


@pytest.mark.slow
def test_prints_what_the_sampler_deals_and_draws_it(recipe, printed, tmp_path):
    picture = tmp_path / "mixture.html"
    rows = printed(recipe, "stages.1.tokens=1024", "--rows", 200, "--picture", picture)
    assert len(rows) == 32 and rows == dealt(recipe, 1)
    page = picture.read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page and "zh\\u002fweb" in page and 'src="http' not in page


@pytest.mark.slow
def test_the_second_stage_goes_on_where_training_ended(recipe, printed):
    previous = read_facts(recipe.parent / "run" / "train-1" / "state")["sampler"]
    rows = printed(recipe, "stages.1.tokens=1024", "--stage", "train-2")
    assert rows == dealt(recipe, 2, previous)
    with pytest.raises(UserError, match="no training stage"):
        reprise("order", recipe, "stages.1.tokens=1024", "--stage", "train-3")


@pytest.mark.slow
def test_verify_names_the_file_with_the_flipped_byte(recipe):
    store = recipe.parent / "run" / "tokenize"
    assert "are as they were written" in reprise("verify", recipe)
    path = store / "train" / "0001" / "tokens.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    for target, said in ((recipe, "is damaged"), (store, "was changed")):
        with pytest.raises(UserError, match=rf"train/0001/tokens.npy.* {said}"):
            reprise("verify", target)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"train/0001/tokens.npy"):
        reprise("verify", recipe)
