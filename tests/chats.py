"""Chat templates, and what they write written out by hand: what the code is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.models import write_tiny_model

START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class Template:
    """What stands around each message, and how it is written."""

    before: Mapping[str, str]
    """Role -> text before its content; that of the assistant is the generation prompt."""
    after: Mapping[str, str]
    beginning: str = ""
    trims: bool = False
    takes_system: bool = True

    def jinja(self) -> str:
        """The same as a chat template."""
        parts = [quoted(self.beginning), "{% for message in messages %}"]
        for role in ("system", "user", "assistant"):
            content = "message['content'] | trim" if self.trims else "message['content']"
            written = [quoted(self.before[role]), "{{ " + content + " }}", quoted(self.after[role])]
            if role == "system" and not self.takes_system:
                written = ["{{ raise_exception('no system messages') }}"]
            parts += [f"{{% if message['role'] == '{role}' %}}", *written, "{% endif %}"]
        prompt = quoted(self.before["assistant"])
        return "".join([*parts, "{% endfor %}{% if add_generation_prompt %}", prompt, "{% endif %}"])

    def write(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the UTF-8 bytes of each answer in it."""
        text, spans = self.beginning, []
        for message in messages:
            text += self.before[message["role"]]
            content = message["content"].strip() if self.trims else message["content"]
            if message["role"] == "assistant":
                start = len(text.encode())
                spans.append((start, start + len(content.encode())))
            text += content + self.after[message["role"]]
        return text, spans


def quoted(text: str) -> str:
    """A text as a Jinja expression."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{{ '" + escaped + "' }}" if text else ""


CHATML = Template(
    before={role: f"{START}{role}\n" for role in ("system", "user", "assistant")},
    after=dict.fromkeys(("system", "user", "assistant"), f"{END}\n"),
)
PLAIN = Template(
    before={"system": "", "user": "### Question:\n", "assistant": "### Answer:\n"},
    after=dict.fromkeys(("system", "user", "assistant"), "\n\n"),
)
NO_SYSTEM = replace(CHATML, takes_system=False)


def write_chat_model(
    folder: Path, texts: list[str], vocab_size: int, template: Template | str | None, eos: str = "<eos>"
) -> Path:
    """A tiny model whose tokenizer has control tokens and a chat template."""
    from transformers import AutoTokenizer

    write_tiny_model(folder, texts, vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    if eos != "<eos>":
        tokenizer.eos_token = eos
    if template is not None:
        tokenizer.chat_template = template if isinstance(template, str) else template.jinja()
    tokenizer.save_pretrained(folder)
    _grow(folder, len(tokenizer))
    return folder


def _grow(folder: Path, rows: int) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)


def bytes_of_tokens(tokenizer: Any, ids: Sequence[int]) -> list[tuple[int, int]]:
    """The UTF-8 bytes that each token stands for in the text that all of them spell: byte-level BPE has one character
    to a byte."""
    spans, at = [], 0
    special = set(tokenizer.added_tokens_decoder)
    for number, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        size = len(token.encode()) if number in special else len(token)
        spans.append((at, at + size))
        at += size
    return spans


def reference(
    tokenizer: Any, template: Template, messages: Sequence[Mapping[str, str]]
) -> tuple[list[int], np.ndarray]:
    """Ids of a conversation as it is stored, its EOS with them, and whether the loss is taken at each.

    The text is written out by hand and tokenized by transformers; a token counts if any byte of it belongs to an
    answer, or to the control token that ends one, with what is before that.
    """
    text, spans = template.write(messages)
    after = template.after["assistant"]
    tokens = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    ends = [after.index(token) + len(token) for token in tokens if token in after]
    end = len(after[: min(ends)].encode()) if ends else 0
    cut = spans[-1][1] + end
    ids = tokenizer(text.encode()[:cut].decode(), add_special_tokens=False)["input_ids"]
    has_loss = np.array(
        [any(a < stop + end and b > start for start, stop in spans) for a, b in bytes_of_tokens(tokenizer, ids)]
    )
    if not end:
        return [*ids, tokenizer.eos_token_id], np.append(has_loss, True)
    if ids[-1] != tokenizer.eos_token_id:
        return [*ids, tokenizer.eos_token_id], np.append(has_loss, False)
    return ids, has_loss
