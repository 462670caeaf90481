"""What a model makes of the same beginnings: for a reader of the report, not a measure."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from reprise.evaluation.evaluated import EvaluatedModel
from reprise.evaluation.heldout import Text
from reprise.recipe.evaluation import Evaluation
from reprise.workspace import digest, write_json

_BEGINNING_BYTES = 120
"""About 20 English words or 40 Chinese characters."""


def choose_prompts(texts: Sequence[Text], settings: Evaluation) -> list[tuple[str, str]]:
    """(language, beginning): the user's own, else those of the first held-out documents; none for 0 tokens."""
    if not settings.sample_tokens:
        return []
    prompts = []
    for language in sorted({text.language for text in texts} | set(settings.sample_prompts)):
        members = [text.text for text in texts if text.language == language][: settings.samples_per_language]
        own = settings.sample_prompts.get(language)
        prompts += [(language, prompt) for prompt in (own or [beginning(text) for text in members])]
    return prompts


def beginning(text: str) -> str:
    """The first words of a text, cut at a space where there is one."""
    cut = text.encode()[:_BEGINNING_BYTES].decode(errors="ignore")
    if len(cut) == len(text):
        return text
    head, space, _ = cut.rpartition(" ")
    return head if space and len(head) > len(cut) // 2 else cut


def continue_prompts(
    evaluated: EvaluatedModel, prompts: Sequence[tuple[str, str]], settings: Evaluation, *, cache: Path
) -> list[str]:
    """The greedy continuation of each beginning, without it."""
    if not prompts:
        return []
    path = cache / f"continuations-{digest([evaluated.fingerprint, list(prompts), settings.sample_tokens])}.json"
    if path.exists():
        return [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]
    answers = [_continue(evaluated, prompt, settings.sample_tokens) for _, prompt in prompts]
    cache.mkdir(parents=True, exist_ok=True)
    write_json(path, answers)
    return answers


def _continue(evaluated: EvaluatedModel, prompt: str, max_tokens: int) -> str:
    tokenizer, model = evaluated.tokenizer, evaluated.model
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(evaluated.device)
    if not ids.numel():
        return ""
    with torch.no_grad():
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
