"""What is measured before and after."""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings, Share


class Evaluation(Settings):
    """Held-out bits per byte, benchmarks, and the retention verdict."""

    benchmarks: list[str] = []
    """Benchmarks or suites (`quick`, `guards`, `paper`); documents that hold their questions are dropped."""
    data: str | None = None
    """Folder of local benchmark files; null loads from the Hub."""
    limit: Count = 0
    """Questions per benchmark; 0: all. A sample is marked as such."""
    tolerance: Annotated[dict[str, Share], Field()] = {"en": 0.02}
    """Kept language -> largest relative rise of its bits per byte that still counts as kept."""
    bootstrap_samples: Count = 1000
    """Resamples of the documents behind each confidence interval."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens in one forward pass of the held-out measurement."""
    stride: Annotated[int, Field(ge=1)] = 1024
    """Tokens by which the window moves."""
