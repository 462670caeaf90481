from pathlib import Path

import pytest

from reprise.workspace import Work


@pytest.fixture
def make_work(tmp_path):
    """A stage's Work in a fresh folder; inputs by name of the stage."""

    def make(stage: str, **inputs: Path) -> Work:
        output = tmp_path / "workspace" / stage
        output.mkdir(parents=True, exist_ok=True)
        return Work(output=output, inputs=inputs, cache=tmp_path / "workspace" / "cache" / stage)

    return make
