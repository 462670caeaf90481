"""Write the proposed recipe as commented YAML: token budget, learning rate, batch, validation, held-out share."""

import math
import re
from collections.abc import Iterator, Sequence

from reprise.proposal.budget import ModelFacts
from reprise.proposal.entries import MAX_CHAT_SHARE, MIN_CHAT_SHARE, Entry
from reprise.proposal.sampling import Group
from reprise.recipe.model import Model

HELD_OUT_DOCUMENTS = 150
"""Held-out documents of an entry that its verdict needs for enough power (docs/evaluation.md)."""
MAX_HELD_OUT_SHARE = 0.2
"""Maximum share of documents that are held out, however few there are."""
VALIDATION_SHARE = 0.1
"""Maximum time of all validations, as a share of the time of training."""
MIN_VALIDATION_TOKENS = 512
"""Tokens of a source that each validation reads at least."""
EVALUATION_SHARE = 0.5
"""Maximum time of the evaluation's bits per byte, as a share of the time of training."""
MIN_DOCUMENT_BYTES = 1000
"""Bytes that are measured of each held-out document at least."""
MAX_EPOCHS = 2.0


class RecipeWriter:
    """Writes the recipe as commented YAML."""

    def __init__(
        self,
        model: Model,
        groups: Sequence[Group],
        entries: Sequence[Entry],
        facts: ModelFacts,
        notes: list[str],
        tokens: int | None = None,
    ) -> None:
        self.model, self.groups, self.entries, self.facts, self.notes = model, groups, entries, facts, notes
        self.given_tokens = tokens

    def write(self, name: str, workspace: str) -> str:
        """Return the recipe as YAML; its assumptions are added to `notes`."""
        tokens, seq_len = self._tokens(), min(self.facts.positions, 512 if self.facts.gpu is None else 4096)
        batch_rows = 2 ** round(math.log2(min(512_000, max(seq_len, tokens / 200)) / seq_len))
        every = _two_digits(tokens / 10)
        validations, validation_tokens = self._validation(tokens)
        held_out = self._held_out()
        language = next((entry.language for entry in self.entries if not entry.keep), self.entries[0].language)
        lines = [
            "# Written by `reprise init` from a look at the files; change what you know better. Every setting:",
            "# `reprise settings`. Next: `reprise plan`, then `reprise run`.",
            f"name: {_quoted(name)}",
            f"workspace: {_quoted(workspace)}",
            "",
            "model:",
            *[f"  {key}: {_quoted(value)}" for key, value in self._model_settings().items()],
            "",
            "documents:",
            f"  valid_share: {held_out:g}      # held out for the verdict, by a hash of the text",
            "  inputs:",
            *[line for group in self.groups for line in self._input(group)],
            "",
            "rows:",
            f"  seq_len: {seq_len}",
            "",
            "stages:",
            "  - name: adaptation",
            f"    tokens: {tokens}      # {self._why_tokens}",
            "    mixture:",
            *[line for entry in self.entries for line in self._entry(entry)],
            "    schedule: {kind: wsd, peak_lr: 1e-4, "
            + f"warmup_tokens: {_two_digits(tokens / 20)}, decay_tokens: {every}}}",
            "    # topics: {sources: [web], policy: {name: topic_perplexity}}   # needs labels: docs/documents.md",
            "    # curriculum: {LANGUAGE: {order: ascending}}   # costs a forward pass over that text",
            "",
            "training:",
            f"  batch_rows: {batch_rows}",
            f"  validation: {{every_tokens: {_two_digits(tokens / validations)}, max_tokens: {validation_tokens}}}"
            "      # per source",
            f"  checkpoints: {{every_tokens: {every}}}",
            "",
            "evaluation:",
            self._benchmarks(language),
        ]
        if document_bytes := self._document_bytes(tokens, held_out):
            lines.append(f"  document_bytes: {document_bytes}      # of each held-out document; 0: all")
        if self.facts.gpu is not None:
            lines += ["", "hardware:", f"  gpu: {_quoted(self.facts.gpu)}"]
        return "\n".join(lines) + "\n"

    def _benchmarks(self, language: str) -> str:
        if not self.facts.has_chat_template:
            return f"  benchmarks: []      # such as [language:{language}]; `reprise benchmarks {language}` lists them"
        return (
            "  benchmarks: [assistant]      # instruction following; in English only: instructions-en. Others: "
            f"`reprise benchmarks {language}`"
        )

    def _model_settings(self) -> dict[str, str]:
        given = self.model.model_dump(mode="json", exclude_defaults=True)
        return {key: str(value) for key, value in given.items()}

    def _tokens(self) -> int:
        available = {entry.name: self.facts.tokens_of(entry) for entry in self.entries}
        by_text = min(MAX_EPOCHS * available[entry.name] / entry.share for entry in self.entries)
        by_time = self.facts.flops_per_s * 3600 * self.facts.hours / self.facts.flops_per_token
        tokens = self.given_tokens or _two_digits(min(by_text, by_time))
        limit = f"{MAX_EPOCHS:g} passes over the scarcest text" if by_text <= by_time else f"{self.facts.hours:g} h"
        self._why_tokens = "as you said" if self.given_tokens else f"{limit} on {self.facts.device}"
        for entry in self.entries:
            self.notes.append(
                f"{entry.name}: about {entry.num_bytes / 1e6:,.1f} MB of text, {entry.documents:,.0f} documents, "
                f"{available[entry.name]:,.0f} tokens, read {tokens * entry.share / available[entry.name]:.2f} times"
            )
        self.notes.append(f"{tokens:,} tokens: {self._why_tokens} (an estimate; `reprise plan` says more)")
        return tokens

    def _held_out(self) -> float:
        fewest = min(entry.documents for entry in self.entries)
        share = min(MAX_HELD_OUT_SHARE, max(0.005, HELD_OUT_DOCUMENTS / max(1.0, fewest)))
        share = float(f"{share:.2g}")
        self.notes.append(
            f"{share:.1%} of the documents are held out, about {fewest * share:,.0f} of the smallest entry "
            f"({HELD_OUT_DOCUMENTS} give a verdict power)"
        )
        return share

    def _validation(self, tokens: int) -> tuple[int, int]:
        """Number of validations, ten at most, and the tokens of a source in each: `VALIDATION_SHARE` of the training.

        A validation token costs a third of a training token.
        """
        of_a_source = VALIDATION_SHARE * 3 * tokens / sum(len(entry.sources) for entry in self.entries)
        validations = max(1, min(10, int(of_a_source / MIN_VALIDATION_TOKENS)))
        return validations, max(MIN_VALIDATION_TOKENS, _two_digits(of_a_source / validations))

    def _document_bytes(self, tokens: int, held_out: float) -> int:
        """Bytes of a held-out document to measure, so that it takes at most `EVALUATION_SHARE` of the training; 0: all.

        Each of two models reads a token of its window for a third of the cost of a training token, and the windows of
        a long document overlap by half.
        """
        sizes = [entry.num_bytes for entry in self.entries]
        held_out_tokens = held_out * sum(self.facts.tokens_of(entry) for entry in self.entries)
        cost_in_training_tokens = 2 * 2 * held_out_tokens / 3
        share = EVALUATION_SHARE * tokens / max(1.0, cost_in_training_tokens)
        documents = sum(entry.documents for entry in self.entries)
        if share >= 1 or not documents:
            return 0
        document_bytes = max(MIN_DOCUMENT_BYTES, _two_digits(share * sum(sizes) / documents))
        self.notes.append(
            f"the evaluation measures the first {document_bytes:,} bytes of each held-out document: all of them would "
            f"take {EVALUATION_SHARE / share:.1f} times as long as training"
        )
        return document_bytes

    def _input(self, group: Group) -> Iterator[str]:
        constants = {}
        if group.language is not None and not group.names_language:
            constants["lang"] = group.language
        if not group.names_source:
            constants["source"] = group.source
        size = sum(file.size for file in group.files) / 1e6
        what = "text of what is to be kept" if group.keep else "new text"
        yield f"    - path: {_quoted(group.path)}      # {what}: {len(group.files)} files, {size:,.1f} MB"
        if group.text_field != "text":
            yield f"      fields: {{text: {_quoted(group.text_field)}}}"
        if constants:
            inner = ", ".join(f"{key}: {_quoted(value)}" for key, value in constants.items())
            yield f"      constants: {{{inner}}}"

    def _entry(self, entry: Entry) -> Iterator[str]:
        yield f"      {_quoted(entry.name)}:"
        yield f"        share: {entry.share:g}"
        if entry.language != entry.name:
            yield f"        language: {_quoted(entry.language)}"
        if entry.keep:
            yield "        keep: true      # judged: its bits per byte may rise by 2 % at most"
        inner = ", ".join(f"{_quoted(source)}: {share:g}" for source, share in entry.sources.items())
        line = f"        sources: {{{inner}}}"
        if entry.chat and len(entry.chat) < len(entry.sources):
            line += (
                f"      # {', '.join(entry.chat)}: conversations; {MIN_CHAT_SHARE:.0%} to {MAX_CHAT_SHARE:.0%}, "
                "whatever their size: they show the form of answers, and most tokens are left to the text"
            )
        yield line


def _two_digits(value: float) -> int:
    """An integer with two significant digits, at least 1."""
    if value < 100:
        return max(1, int(value))
    scale: int = 10 ** (int(math.log10(value)) - 1)
    return int(value // scale) * scale


def _quoted(value: str) -> str:
    """A YAML scalar, quoted if it could be read as anything but a string."""
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", value) and value.lower() not in (
        "no",
        "yes",
        "on",
        "off",
        "null",
        "true",
        "false",
        "y",
        "n",
    ):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
