"""The status line of training: progress, losses and speed, printed at intervals."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reprise.model.flops import training_flops_per_token
from reprise.progress import console, format_duration
from reprise.recipe.groups import Group
from reprise.recipe.hardware import peak_bf16_tflops
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.training.memory import peak_memory
from reprise.training.parallel import Processes
from reprise.training.retention_guard import bits_per_byte
from reprise.training.validation import BucketLoss

LARGEST_SHARES = 6
"""Number of shares in the line; metrics.jsonl has all of them."""


class StatusLine:
    """Prints the status line, in the first process and at most once per interval."""

    def __init__(
        self, name: str, config: Any, rows: Rows, training: Training, total: int, processes: Processes
    ) -> None:
        """`total`: tokens of the stage."""
        self._name, self._total, self._processes = name, total, processes
        self._every = training.say_every_seconds
        self._start = self._last = time.monotonic()
        self._first_tokens: int | None = None
        self._flops, self._peak = 0.0, None
        if processes.device.type == "cuda":
            peak = peak_bf16_tflops(torch.cuda.get_device_name(processes.device))
            self._peak = None if peak is None else peak * 1e12 * processes.world
            self._flops = (
                training_flops_per_token(config, rows.seq_len, frozen=training.adapter.kind != "none")
                if self._peak
                else 0.0
            )

    def mfu(self, tokens_per_s: float) -> float | None:
        """Model FLOPs utilisation (MFU) of the accelerators' bf16 peak; None if the peak is not known."""
        return None if self._peak is None else tokens_per_s * self._flops / self._peak

    def say(
        self,
        step: int,
        tokens: int,
        loss: float | None,
        tokens_per_s: float,
        losses: Sequence[BucketLoss],
        shares: Mapping[Any, float],
    ) -> None:
        """Print the line if the interval has passed.

        Args:
            step: optimizer steps of the stage so far.
            tokens: tokens of the stage so far.
            loss: loss of the last step; None if the step was skipped.
            tokens_per_s: speed of the last step.
            losses: losses of the last validation.
            shares: bucket of the mixture -> its share.
        """
        now = time.monotonic()
        if self._first_tokens is None:
            self._first_tokens, self._start = tokens, now
        if not self._processes.is_first or not self._every or now - self._last < self._every:
            return
        self._last = now
        parts = [
            f"{self._name}: step {step:,}, {tokens:,} of {self._total:,} tokens",
            "step left out" if loss is None else f"loss {loss:.3f}",
            *_validation(losses),
            f"{tokens_per_s:,.0f} tokens/s",
        ]
        mfu = self.mfu(tokens_per_s)
        parts += [] if mfu is None else [f"MFU {mfu:.1%}"]
        parts.append(f"{peak_memory(self._processes.device) / 1e9:.1f} GB")
        done = tokens - self._first_tokens
        if done > 0:  # by the speed since the last line, so that it follows changes of the speed
            parts.append(f"{format_duration(max(0, self._total - tokens) * (now - self._start) / done)} left")
            self._first_tokens, self._start = tokens, now
        console.print(" | ".join([*parts, _shares(shares)]), markup=False, highlight=False, soft_wrap=True)


def _validation(losses: Sequence[BucketLoss]) -> list[str]:
    """Format the last validation: `bits/byte en 0.912 zh 1.203`."""
    languages = sorted({loss.key.language for loss in losses})
    values = {language: bits_per_byte(losses, Group(path=language, language=language)) for language in languages}
    shown = [f"{language} {value:.3f}" for language, value in values.items() if value is not None]
    return [f"bits/byte {' '.join(shown)}"] if shown else []


def _shares(shares: Mapping[Any, float]) -> str:
    """Format the largest shares: `zh/web 0.52 en/web 0.31 ...`."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown = [f"{bucket.path} {share:.2f}" for bucket, share in ordered[:LARGEST_SHARES]]
    return " ".join([*shown, *(["..."] if len(ordered) > LARGEST_SHARES else [])])
