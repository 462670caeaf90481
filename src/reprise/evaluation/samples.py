"""What both models write after the same beginnings: the beginnings of held-out documents, or the user's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash

from reprise.evaluation.heldout import Text, encode
from reprise.model.likelihood import native_dtype
from reprise.model.loading import load_model, load_tokenizer
from reprise.progress import track
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.workspace import Json, digest, write_json

_FORMAT = 1
"""Raised when the same prompt and model would give another text."""

PROMPT_BYTES = 160
"""Most UTF-8 bytes of a beginning: about 30 English words or 50 Chinese characters."""

BATCH = 16


def choose_prompts(texts: Sequence[Text], settings: Evaluation) -> list[tuple[str, str]]:
    """(language, beginning) of each sample, in the order of the languages.

    Of a language without prompts of the user, the held-out documents with the smallest hashes are taken: the same ones
    in every run over the same text.
    """
    found = [(language, prompt) for language, prompts in settings.sample_prompts.items() for prompt in prompts]
    for language in sorted({text.language for text in texts} - set(settings.sample_prompts)):
        own = {text.text for text in texts if text.language == language}
        chosen = sorted(own, key=lambda text: xxhash.xxh3_64_intdigest(text.encode()))[: settings.samples_per_language]
        found += [(language, _beginning(text)) for text in chosen]
    return found


def _beginning(text: str) -> str:
    """At most PROMPT_BYTES of a text and at most half of it, up to the end of a word where words have spaces."""
    raw = text.encode()
    cut = raw[: min(PROMPT_BYTES, len(raw) // 2)].decode(errors="ignore")
    head, space, tail = cut.rpartition(" ")
    return head if space and len(tail) < len(cut) // 3 else cut


def write_samples(
    model: Model, prompts: Sequence[str], settings: Evaluation, *, fingerprint: str, cache: Path, what: str
) -> list[str]:
    """Continue each prompt greedily by at most `sample_tokens` tokens.

    Args:
        model: the model.
        prompts: the beginnings.
        settings: length and number format.
        fingerprint: identifies the model's weights and tokenizer.
        cache: folder where the answer is kept.
        what: shown on the progress bar.
    """
    if not prompts or not settings.sample_tokens:
        return ["" for _ in prompts]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = native_dtype(device) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    key = [_FORMAT, fingerprint, str(dtype), device.type, settings.sample_tokens, list(prompts)]
    path = cache / f"samples-{digest(key)}.json"
    if path.exists():
        return list(json.loads(path.read_text(encoding="utf-8")))
    tokenizer, loaded = load_tokenizer(model), load_model(model, dtype, device)
    written: list[str] = []
    with track(what, len(prompts), "samples") as advance:
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            written += _continue(loaded, tokenizer, part, settings.sample_tokens)
            advance(len(part))
    cache.mkdir(parents=True, exist_ok=True)
    write_json(path, written)
    return written


@torch.no_grad()
def _continue(model: Any, tokenizer: Any, prompts: Sequence[str], num_tokens: int) -> list[str]:
    """Greedy continuations of a batch; padding stands on the left, where attention leaves it out."""
    ids = encode(tokenizer, prompts)
    length = max(map(len, ids))
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else int(ids[0][0])
    batch = torch.full((len(ids), length), end)
    mask = torch.zeros((len(ids), length), dtype=torch.long)
    for row, tokens in enumerate(ids):
        batch[row, length - len(tokens) :] = torch.from_numpy(tokens)
        mask[row, length - len(tokens) :] = 1
    # The model's own generation settings (sampling, penalties) would make the two sides differ by more than training.
    model.generation_config = type(model.generation_config)(
        do_sample=False, max_new_tokens=num_tokens, pad_token_id=end, eos_token_id=end, use_cache=True
    )
    out = model.generate(input_ids=batch.to(model.device), attention_mask=mask.to(model.device))
    return [str(tokenizer.decode(row[length:], skip_special_tokens=True)) for row in out]


def compare_samples(prompts: Sequence[tuple[str, str]], before: Sequence[str], after: Sequence[str]) -> list[Json]:
    """{language, prompt, before, after} of each sample."""
    return [
        {"language": language, "prompt": prompt, "before": old, "after": new}
        for (language, prompt), old, new in zip(prompts, before, after, strict=True)
    ]
