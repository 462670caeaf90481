"""What is measured before and after."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reprise.recipe.fields import Count, Settings, Share


class Evaluation(Settings):
    """Held-out bits per byte, benchmarks, and the retention verdict."""

    benchmarks: list[str] = []
    """Benchmarks or suites (`quick`, `guards`, `paper`); documents that hold their questions are dropped."""
    data: str | None = None
    """Folder of local benchmark files; null loads from the Hub."""
    limit: Count = 0
    """Questions per benchmark; 0: all. A sample is marked as such."""
    tolerance: dict[str, Share] = {"en": 0.02}
    """Kept language -> largest relative rise of its bits per byte that still counts as kept."""
    bootstrap_samples: Count = 1000
    """Resamples of the documents behind each confidence interval."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens in one forward pass of the held-out measurement; never more than the model's context."""
    stride: Annotated[int, Field(ge=1)] = 1024
    """Tokens by which the window moves; each token is scored once, with at least max_length - stride before it."""
    batch_tokens: Count = 8192
    """Tokens in one batch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of both models; `auto` takes bfloat16 where the device multiplies it in hardware."""
    samples_per_language: Count = 2
    """Held-out documents of each language whose beginnings both models continue, for the report."""
    sample_prompts: dict[str, list[str]] = {}
    """Language -> beginnings of your own, in the place of those."""
    sample_tokens: Count = 64
    """Most tokens of such a continuation; 0: none is written."""

    @model_validator(mode="after")
    def _window_moves_less_than_its_length(self) -> "Evaluation":
        if self.stride >= self.max_length:
            raise ValueError(f"stride {self.stride} must be below max_length {self.max_length}")
        return self
