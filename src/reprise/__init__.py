"""Reprise: continual pre-training of language models, from raw text to a better model and the proof of it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reprise.api import Run

__all__ = ["open"]
__version__ = "0.1.0"


def open(run: str | Path) -> "Run":  # noqa: A001 (read as reprise.open)
    """Open a run by its folder or its recipe, to read it in a script or a notebook: docs/api.md.

    Raises:
        UserError: there is no run, or its recipe does not pass its checks.
    """
    from reprise.api import open_run  # torch is imported only here: the command answers --help at once

    return open_run(run)
