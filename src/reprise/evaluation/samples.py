"""Continuations of the same prompts by each model: for a reader of the report, not a measure."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from reprise.evaluation.bits_per_byte import Text
from reprise.evaluation.model import EvaluatedModel
from reprise.model.tokenizer import begins_with_bos, end_ids
from reprise.processes import Remote
from reprise.recipe.evaluation import Evaluation
from reprise.storage import digest, read_checked, write_checked

_BEGINNING_BYTES = 120
"""About 20 English words or 40 Chinese characters."""


def choose_prompts(texts: Sequence[Text], settings: Evaluation) -> list[tuple[str, str]]:
    """(language, prompt) pairs: the user's own, else beginnings of held-out documents, evenly spaced in their order;
    none for 0 tokens. Documents that are longer than a prompt are preferred."""
    if not settings.sample_tokens:
        return []
    prompts = []
    for language in sorted({text.language for text in texts} | set(settings.sample_prompts)):
        own = settings.sample_prompts.get(language)
        members = [text.text for text in texts if text.language == language and text.messages is None]
        chosen = own or [beginning(text) for text in _spread(members, settings.samples_per_language)]
        prompts += [(language, prompt) for prompt in chosen]
    return prompts


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """`count` of the texts, evenly spaced; only long ones if there are enough."""
    long = [text for text in texts if len(text.encode()) >= 2 * _BEGINNING_BYTES]
    among = long if len(long) >= count else sorted(texts, key=len)[-count:]
    return [among[len(among) * (2 * i + 1) // (2 * count)] for i in range(min(count, len(among)))]


def beginning(text: str) -> str:
    """The first words of a text, at most half of it, cut at a space if there is one."""
    data = text.encode()
    cut = data[: min(_BEGINNING_BYTES, max(1, len(data) // 2))].decode(errors="ignore")
    head, space, _ = cut.rpartition(" ")
    return head if space and len(head) > len(cut) // 2 else cut


def continue_prompts(
    evaluated: EvaluatedModel, prompts: Sequence[tuple[str, str]], settings: Evaluation, *, cache: Path
) -> list[str]:
    """The greedy continuation of each prompt, without the prompt."""
    if not prompts:
        return []
    path = cache / f"continuations-{digest([evaluated.fingerprint, list(prompts), settings.sample_tokens])}.json"
    if (known := read_checked(path)) is not None:
        return [str(text) for text in known]
    if evaluated.in_process:
        measure = partial(_continue, settings.sample_tokens)
        remote = Remote(evaluated, measure)
        answers = evaluated.processes.spread([text for _, text in prompts], partial(measure, evaluated), remote)
    else:
        from reprise.evaluation.backends import generate

        answers = generate(evaluated.remote, [prompt for _, prompt in prompts], settings.sample_tokens)
    write_checked(path, answers)
    return answers


def _continue(max_tokens: int, evaluated: EvaluatedModel, prompt: str) -> str:
    tokenizer, model = evaluated.tokenizer, evaluated.model
    text_ids = evaluated.text_tokenizer.encode_batch([prompt])[0].tolist()
    if not text_ids:
        return ""
    begin = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
    ids = torch.tensor([begin + text_ids], device=evaluated.device)
    with torch.no_grad():
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=end_ids(model, tokenizer),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
