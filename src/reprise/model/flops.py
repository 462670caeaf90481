"""Estimate what training on a token costs, in FLOPs."""

from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM


class ParameterCounts(NamedTuple):
    """Parameters of a causal LM."""

    total: int
    lookup: int
    """Parameters of input embeddings that are only looked up: those not shared with the output layer."""
    active: int
    """Parameters that a token uses: all, without the experts that its router does not choose."""


def count_parameters(config: Any) -> ParameterCounts:
    """Count the parameters of a model from its configuration; loads no weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    experts = next((count for name in names if (count := getattr(text, name, None))), None)
    chosen = getattr(text, "num_experts_per_tok", None) or getattr(text, "moe_k", None) or experts
    total = inactive = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if experts and ".experts." in name:
            inactive += parameter.numel() * (experts - chosen) // experts
    tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
    lookup = 0 if tied else model.get_input_embeddings().weight.numel()
    return ParameterCounts(total, lookup, total - inactive)


def training_flops_per_token(config: Any, seq_len: int, *, frozen: bool = False) -> float:
    """Floating-point operations of the forward and backward pass for one token of a row of `seq_len` tokens.

    6 for each parameter used in a multiplication (of experts, only the chosen ones), and for attention
    6 * heads * (size of a key + size of a value) * context in each layer (PaLM, arXiv 2204.02311, appendix B: the
    causal half is not subtracted; recomputed activations do not count). Weights that are frozen beside an adapter have
    no gradient: 4 for each instead of 6; the adapter's own are not counted.
    """
    counts = count_parameters(config)
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_size = getattr(text, "qk_head_dim", None) or head_dim
    value_size = getattr(text, "v_head_dim", None) or head_dim
    context = sum(_context(text, layer, seq_len) for layer in range(text.num_hidden_layers))
    attention = 6 * text.num_attention_heads * (key_size + value_size) * context
    return float((4 if frozen else 6) * (counts.active - counts.lookup) + attention)


def _context(text: Any, layer: int, seq_len: int) -> float:
    """Keys per token in a layer, by the convention that a causal row of T tokens counts T: twice the mean."""
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    windowed = kinds[layer] == "sliding_attention" if kinds else getattr(text, "use_sliding_window", True)
    if not window or not windowed or window >= seq_len:
        return float(seq_len)
    return float(2 * window - window * window / seq_len)
