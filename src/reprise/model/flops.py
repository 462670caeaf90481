"""How much a token costs."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM


def count_parameters(config: Any) -> tuple[int, int]:
    """Parameters of a causal LM, and those among them of input embeddings that multiply no matrix; loads no weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
    return total, 0 if tied else model.get_input_embeddings().weight.numel()


def training_flops_per_token(config: Any, seq_len: int) -> float:
    """Floating-point operations of forward and backward for one token of a row of `seq_len` tokens.

    6 for each parameter that multiplies, and 12 * layers * heads * head size * seq_len for attention
    (PaLM, arXiv 2204.02311, appendix B; the causal half is not subtracted, recomputed activations do not count).
    """
    text = config.get_text_config()
    total, lookup = count_parameters(config)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = 12 * text.num_hidden_layers * text.num_attention_heads * head_dim * seq_len
    return float(6 * (total - lookup) + attention)
