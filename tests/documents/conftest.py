import os
from pathlib import Path

import pytest
from tests.synthesis.conftest import server, tiny_model  # noqa: F401

from reprise.workspace import Work


@pytest.fixture
def make_work(tmp_path):
    """A stage's Work in a fresh folder; inputs by name of the stage."""

    def make(stage: str, **inputs: Path) -> Work:
        output = tmp_path / "workspace" / stage
        output.mkdir(parents=True, exist_ok=True)
        return Work(output=output, inputs=inputs, cache=tmp_path / "workspace" / "cache" / stage)

    return make


def _shared(variable: str, name: str) -> Path:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / name
    folder = Path(os.environ.get(variable, beside))
    if not folder.is_dir():
        pytest.skip(f"{variable} is not set and {name} is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of real text."""
    return _shared("REPRISE_CORPUS", "corpus")


@pytest.fixture(scope="session")
def evalsets() -> Path:
    """Folder of benchmark questions."""
    return _shared("REPRISE_EVALSETS", "evalsets")
