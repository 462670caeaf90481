"""Causal attention for training: blocks of matrix products on a CPU, documents by their bounds on a GPU.

On a CPU, in bfloat16, PyTorch's own kernel wastes a third of the time: it divides the work by heads,
which do not divide evenly among few cores, and its products are small. Here queries are in blocks of all heads that
share a key, and each block uses only the keys up to its end. Scores are rounded to bfloat16 before the softmax, as in
the eager attention of transformers; the softmax itself works in float32. What this does not cover goes to PyTorch's
kernel.

On a GPU rows of several documents go to PyTorch's flash attention for sequences of any length, which gets the bounds of
the documents and computes nothing between them; a mask of [T, T] would make it compute all pairs and throw most away.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCKED = "reprise_blocked"
VARLEN = "reprise_varlen"
CAUSAL = "reprise_causal"
"""PyTorch's kernel without a mask: rows are padded on the right, if at all."""
BLOCKED_UNMASKED = "reprise_blocked_unmasked"
"""The same without masks, for the estimate of memory: fake tensors do not say where documents begin."""
BLOCK = 128
"""Queries in a block: best of 32 to 256 with one thread and with two (measured)."""
_KERNEL_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether PyTorch's kernel accepts fewer key heads than query heads; PyTorch 2.11 does not."""
KEPT_LENGTH = 1024
"""In rows of up to this many tokens the probabilities are kept, which saves a quarter of the backward pass.
They take `heads * T` bytes per token and layer; in longer rows that soon exceeds everything else a layer keeps."""


def choose_attention(
    model: Any,
    setting: str,
    device: torch.device,
    *,
    document_mask: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> str:
    """Use the fastest attention that fits a model for training and return which one it is.

    Args:
        model: a transformers model; its weights may still be on the meta device.
        setting: `model.attention`; with anything but `auto` the attention stays as it was loaded.
        device: where the model will run.
        document_mask: whether rows contain documents that must not attend to each other.
        dtype: dtype of queries, keys and values.
    """
    current = str(model.config._attn_implementation)
    if setting == "auto" and current == "sdpa":
        if device.type == "cpu":
            model.set_attn_implementation(BLOCKED)
            return BLOCKED
        if device.type == "cuda":
            chosen = _on_gpu(model.config, device, dtype, document_mask=document_mask)
            if chosen is not None:
                model.set_attn_implementation(chosen)
                return chosen
    return current


def _on_gpu(config: Any, device: torch.device, dtype: torch.dtype, *, document_mask: bool) -> str | None:
    """The attention for document bounds or windows, or for neither; None for the default of transformers."""
    if not (document_mask or _windows(config)) and _layer_kinds(config) == {"full_attention"} and _is_plain(config):
        return CAUSAL
    if runs_varlen(device, dtype) and fits_varlen(config):
        return VARLEN
    return None


def runs_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the GPU has the kernel for this type: flash attention needs Ampere or newer, and 16 bits."""
    return dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0)


def fits_varlen(config: Any) -> bool:
    """Whether every layer is causal attention over whole documents or a sliding window, as the kernel computes it."""
    text = config.get_text_config()
    # DeepSeek's latent attention has values of another size than keys; flash attention takes up to 256 numbers a head.
    sizes = {getattr(text, name, None) for name in ("qk_head_dim", "v_head_dim")} - {None}
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    fits_heads = len(sizes) <= 1 and max([head_dim, *sizes]) <= 256 and head_dim % 8 == 0
    known = _layer_kinds(config) <= {"full_attention", "sliding_attention"}
    return known and fits_heads and _is_plain(config) and not getattr(text, "attention_dropout", None)


def _layer_kinds(config: Any) -> set[str]:
    return set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])


def _windows(config: Any) -> bool:
    text = config.get_text_config()
    return bool(getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True))


def _is_plain(config: Any) -> bool:
    """Whether scores go into the softmax unchanged."""
    text = config.get_text_config()
    return not any(getattr(text, name, None) for name in ("attn_logit_softcapping", "attention_chunk_size"))


def document_inputs(config: Any, position_ids: Tensor) -> dict[str, Any]:
    """Arguments of the model that keep attention inside documents.

    Args:
        config: the model's, after `choose_attention`.
        position_ids: int64[B, T], 0 at the first token of each document and of each row.
    """
    inputs: dict[str, Any] = {"position_ids": position_ids}
    if config._attn_implementation == VARLEN:
        # transformers' names for the bounds of the documents in the rows, one row after the other.
        starts = torch.nonzero(position_ids.flatten() == 0).flatten()
        bounds = torch.cat([starts, starts.new_tensor([position_ids.numel()])]).to(torch.int32)
        longest = int(bounds.diff().max())
        inputs |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    return inputs


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(scale * query @ key^T) @ value over the keys up to each query.

    Args:
        query: [B, heads, T, D]; T is a multiple of BLOCK.
        key: [B, key heads, T, D].
        value: [B, key heads, T, D].
        scale: factor applied to the scores.
        mask: bool[B, 1, T, T], True if a query sees a key; never beyond the causal triangle. None: all of it.

    Returns:
        [B, heads, T, D].
    """
    result: Tensor = _BlockedAttention.apply(query, key, value, scale, mask)  # type: ignore[no-untyped-call]
    return result


def _attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers; output [B, T, heads, D]."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    fits = (
        causal
        and query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[2] == key.shape[2]
        and query.shape[2] % BLOCK == 0
        and dropout == 0.0
        and (attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1))
        and all(others.get(name) is None for name in ("softcap", "position_bias", "cache", "s_aux"))
    )
    if not fits:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **others
        )
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return blocked_attention(query, key, value, scale, attention_mask).transpose(1, 2).contiguous(), None


def _varlen_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers; output [B, T, heads, D]. Without bounds of documents each row is one document."""
    batch, heads, length, _ = query.shape
    bounds, longest = others.get("cu_seq_lens_q"), others.get("max_length_q")
    if bounds is None or longest is None:  # without documents each row is one
        bounds = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
        longest = length
    window = others.get("sliding_window")
    if key.shape[1] != heads and not _KERNEL_GROUPS_HEADS:
        key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    queries, keys, values = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    # transformers counts the token itself in its window, the kernel the tokens before it.
    options: dict[str, Any] = {"scale": scaling, "window_size": (window - 1 if window else -1, 0)}
    if key.shape[1] != heads:
        options["enable_gqa"] = True
    result: Any = varlen_attn(queries, keys, values, bounds, bounds, longest, longest, **options)
    return result.view(batch, length, heads, value.shape[-1]), None


AttentionInterface.register(BLOCKED, _attention_forward)
AttentionMaskInterface.register(BLOCKED, sdpa_mask)
AttentionInterface.register(BLOCKED_UNMASKED, _attention_forward)
AttentionInterface.register(VARLEN, _varlen_forward)
AttentionInterface.register(CAUSAL, sdpa_attention_forward)
# Neither has a mask function, so that transformers does not look for documents in the positions, which would make
# the host wait for the GPU in every forward pass.


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        blocks = _Blocks(query, key, value, scale, mask)
        output = torch.empty_like(blocks.queries)
        kept = []
        for block in range(blocks.count):
            keys = blocks.seen(block)
            probabilities = blocks.probabilities(block, keys)
            torch.bmm(probabilities, blocks.values[:, keys], out=output[block])
            if query.shape[2] <= KEPT_LENGTH and any(ctx.needs_input_grad):
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, mask, *kept)
        ctx.scale = scale
        return blocks.joined(output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> Any:
        query, key, value, mask, *kept = ctx.saved_tensors
        blocks = _Blocks(query, key, value, ctx.scale, mask)
        d_outputs = blocks.cut(d_output)
        d_query = torch.empty_like(blocks.queries)
        d_key = torch.zeros(blocks.keys.shape, dtype=torch.float32)
        d_value = torch.zeros(blocks.values.shape, dtype=torch.float32)
        for block in range(blocks.count):
            keys = blocks.seen(block)
            probabilities = kept[block] if kept else blocks.probabilities(block, keys)
            d_value[:, keys] += torch.bmm(probabilities.transpose(1, 2), d_outputs[block])
            d_probabilities = torch.bmm(d_outputs[block], blocks.values[:, keys].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
            torch.bmm(d_scores, blocks.keys[:, keys], out=d_query[block])
            d_key[:, keys] += torch.bmm(d_scores.transpose(1, 2), blocks.queries[block])
        return (
            blocks.joined(d_query).mul_(ctx.scale),
            d_key.to(key.dtype).view(key.shape),
            d_value.to(value.dtype).view(value.shape),
            None,
            None,
        )


class _Blocks:
    """Queries by block: [blocks, B * key heads, queries of all heads of the group, D]; keys by key head."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> None:
        self._shape = query.shape
        self._key_heads = key.shape[1]
        self._group = query.shape[1] // key.shape[1]
        self._mask = mask
        self.count = query.shape[2] // BLOCK
        self.queries = self.cut(query * scale)
        self.keys = key.reshape(-1, *key.shape[2:])
        self.values = value.reshape(-1, *value.shape[2:])
        self._beyond = torch.full((BLOCK, BLOCK), float("-inf"), dtype=query.dtype).triu(1).repeat(self._group, 1)

    def cut(self, states: Tensor) -> Tensor:
        batch, _, length, size = states.shape
        parts = states.reshape(batch * self._key_heads, self._group, length // BLOCK, BLOCK, size)
        return parts.permute(2, 0, 1, 3, 4).reshape(self.count, -1, self._group * BLOCK, size)

    def joined(self, parts: Tensor) -> Tensor:
        batch, heads, length, size = self._shape
        grouped = parts.view(self.count, batch * self._key_heads, self._group, BLOCK, size)
        return grouped.permute(1, 2, 0, 3, 4).reshape(batch, heads, length, size)

    def seen(self, block: int) -> slice:
        """The keys that any query of a block sees."""
        end = (block + 1) * BLOCK
        if self._mask is None:
            return slice(0, end)
        rows = self._mask[:, 0, end - BLOCK : end, :end]
        return slice(int(rows.flatten(0, 1).any(dim=0).int().argmax()), end)

    def probabilities(self, block: int, keys: slice) -> Tensor:
        """[B * key heads, group * BLOCK, keys]."""
        scores = torch.bmm(self.queries[block], self.keys[:, keys].transpose(1, 2))
        if self._mask is None:
            scores[:, :, -BLOCK:].add_(self._beyond)
        else:
            batch, length = self._shape[0], keys.stop - keys.start
            hidden = ~self._mask[:, :, keys.stop - BLOCK : keys.stop, keys]
            added = torch.zeros(hidden.shape, dtype=scores.dtype).masked_fill_(hidden, float("-inf"))
            scores.view(batch, self._key_heads * self._group, BLOCK, length).add_(added)
        return torch.softmax(scores, dim=-1)
