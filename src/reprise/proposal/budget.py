"""Facts for the proposed budget: the model, its bytes per token on the text, and this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reprise.model.flops import training_flops_per_token
from reprise.model.loading import load_config, load_tokenizer
from reprise.model.machine import count_cores, cpu_flops_per_s
from reprise.model.tokenizer import open_tokenizer
from reprise.proposal.entries import Entry
from reprise.proposal.sampling import Group
from reprise.recipe.hardware import peak_bf16_tflops
from reprise.recipe.model import Model

CPU_HOURS, GPU_HOURS = 1.0, 24.0
"""Maximum training time that is proposed."""


@dataclass
class ModelFacts:
    """Facts that the budget depends on."""

    positions: int
    flops_per_token: float
    bytes_per_token: dict[str, float]
    """Language -> UTF-8 bytes of text per token."""
    device: str
    flops_per_s: float
    hours: float
    gpu: str | None
    has_chat_template: bool

    @classmethod
    def of(cls, model: Model, groups: Sequence[Group]) -> "ModelFacts":
        """Collect facts about a model, the sampled text and this machine.

        Raises:
            UserError: the model or its tokenizer cannot be opened.
        """
        config = load_config(model)
        positions = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2048)
        tokenizer = open_tokenizer(model)
        texts: dict[str, list[str]] = {}
        for group in groups:
            texts.setdefault(group.language or "", []).extend(group.samples)
        ratios = {
            language: sum(len(text.encode()) for text in some) / max(1, sum(map(len, tokenizer.encode_batch(some))))
            for language, some in texts.items()
        }
        if torch.cuda.is_available():
            device = torch.cuda.get_device_name()
            count, peak = torch.cuda.device_count(), peak_bf16_tflops(device)
            speed, hours, gpu = count * (peak or 100.0) * 1e12 * 0.4, GPU_HOURS, device if peak else None
            device = f"{count} x {device}"
        else:
            speed, hours, gpu = cpu_flops_per_s(), CPU_HOURS, None
            device = f"{count_cores()} CPU cores"
        flops = training_flops_per_token(config, min(positions, 2048))
        has_chat_template = load_tokenizer(model).chat_template is not None
        return cls(positions, flops, ratios, device, speed, hours, gpu, has_chat_template)

    def tokens_of(self, entry: Entry) -> float:
        """Estimated tokens of an entry's text."""
        ratio = self.bytes_per_token.get(entry.language) or float(np.mean(list(self.bytes_per_token.values())))
        return entry.num_bytes / ratio
