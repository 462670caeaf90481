"""Convert conversations to token ids with the model's own chat template, and find the tokens of the answers.

The rendered text is tokenized as a whole, as in transformers; the characters of a token determine which message it
belongs to. An answer is what the template writes between its generation prompt and the token that ends the turn.
Control tokens count as such only if the template writes them: in a message `<|im_end|>` is text.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from reprise.errors import UserError
from reprise.model.conversation import Message, load_messages
from reprise.model.tokenizer import Ids, Tokenizer, special_ids
from reprise.recipe.model import Model

Answers = npt.NDArray[np.int32]
"""int32[answers, 3]: first token, end of the text, end with the tokens that end the turn."""

_FIXED_DATE = "{%- macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
"""Prepended to a template that uses today's date, so that a document has the same ids on every day."""
_PROBE: list[Message] = [
    {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"}, {"role": "assistant", "content": "Four."},
]  # fmt: skip


class RefusedConversationError(UserError):
    """The chat template does not work for one conversation; `why` is the reason, without the conversation."""

    why: str


class Rendered(NamedTuple):
    """A conversation as a document."""

    ids: Ids
    """uint32[n], without the BOS and EOS of the token store around it."""
    answers: Answers
    """Positions in `ids`; the last end may be n + 1: the EOS after the document then ends the turn."""


class _Span(NamedTuple):
    """Characters of a message in the rendered text."""

    start: int
    stop: int


class ChatTemplate:
    """The chat template of a model with its tokenizer."""

    def __init__(self, model: Model) -> None:
        """Load the tokenizer, and render a short conversation.

        Raises:
            UserError: there is no template, it is not one that can be followed, or the tokenizer gives no positions.
        """
        from reprise.model.loading import load_config, load_tokenizer

        tokenizer: Any = load_tokenizer(model)
        self._where = f"model.path = {model.path}"
        if tokenizer.chat_template is None:
            raise UserError(
                "some documents are conversations, and the model's tokenizer has no chat template to write them with",
                where=self._where,
                remedy="take an instruct model, or put the chat_template.jinja of one into the model's folder, "
                "or leave conversations out",
            )
        if not tokenizer.is_fast:
            raise UserError(
                "conversations need a tokenizer that tells where its tokens stand, and this one is slow",
                where=self._where,
                remedy="use a model with a tokenizer.json, or leave conversations out",
            )
        self._tokenizer = tokenizer
        self.eos_id, self.bos_id = special_ids(model, tokenizer)
        self._num_embeddings = int(load_config(model).get_text_config().vocab_size)
        template = tokenizer.get_chat_template()
        self._template = _FIXED_DATE + template if "strftime_now" in template else template
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        self._ends = sorted({token.content for token in added})
        """Tokens that may end a turn."""
        self._control = sorted({token.content for token in added if token.special})
        # Its post-processor would remove white space from the positions of tokens.
        self._whole = _without_post_processor(tokenizer.backend_tokenizer)
        self._plain = _without_post_processor(tokenizer.backend_tokenizer)
        self._whole.encode_special_tokens = False
        self._plain.encode_special_tokens = True
        self._takes_system = self._accepts([{"role": "system", "content": "Zero."}, *_PROBE])
        self.render(_PROBE)

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The ids of a conversation whose last message is an answer.

        What the template writes after the end of the last answer is dropped: nothing follows that needs it.

        Args:
            messages: an optional system message, then alternating user and assistant messages.

        Raises:
            RefusedConversationError: the template refuses the conversation, or does not write each message once and in
            order.
        """
        messages = self._fold_system(messages)
        text = self._apply(messages)
        spans, end_of_turn = self._locate(messages, text)
        ends = [
            span.stop + len(end_of_turn) if text.startswith(end_of_turn, span.stop) else span.stop for span in spans
        ]
        last = len(messages) - 1
        text = text[: ends[last]]
        ids, starts, stops = self._encode(text, spans, messages)
        rows = [
            (
                int(np.searchsorted(stops, span.start, side="right")),
                int(np.searchsorted(starts, span.stop, side="left")),
                int(np.searchsorted(starts, end, side="left")),
            )
            for message, span, end in zip(messages, spans, ends, strict=True)
            if message["role"] == "assistant"
        ]
        answers = np.array(rows, dtype=np.int32)
        if not end_of_turn:
            answers[-1, 2] += 1  # the EOS that the store puts after the document
        elif len(ids) and ids[-1] == self.eos_id:
            ids = ids[:-1]  # the store puts it back
        if self.bos_id is not None and len(ids) and ids[0] == self.bos_id:
            ids, answers = ids[1:], answers - 1
        return Rendered(ids, answers)

    def _apply(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
            )
        except Exception as error:  # whatever a template raises
            raise self._refuse(messages, f"it raises: {str(error)[:200]}") from error

    def _accepts(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes all messages."""
        try:
            text = self._apply(messages)
        except UserError:
            return False
        return all(message["content"] in text for message in messages)

    def _fold_system(self, messages: Sequence[Message]) -> list[Message]:
        """Put a system message before the first question if the template does not support system messages."""
        if messages[0]["role"] != "system" or self._takes_system:
            return list(messages)
        first = messages[1]
        content = f"{messages[0]['content']}\n\n{first['content']}"
        return [{"role": first["role"], "content": content}, *messages[2:]]

    def _locate(self, messages: list[Message], text: str) -> tuple[list[_Span], str]:
        """Positions of the messages in the rendered text, and the control token that ends an answer, with the text
        before it; empty if there is none."""
        between = self._between(messages)
        if not text.startswith(between[0]):
            raise self._refuse(messages, "what it writes depends on the messages in a way that cannot be followed")
        position, spans = len(between[0]), []
        before = between[0]
        for index, message in enumerate(messages):
            after, is_last = between[index + 1], index == len(messages) - 1
            span = _match(text, position, message["content"], after, is_last=is_last)
            if span is None and message["role"] == "assistant":
                span = self._changed_answer(messages[:index], text, position - len(before), after, is_last=is_last)
            elif span is None and not is_last:
                after = self._prompt(messages[: index + 1])
                span = _match(text, position, message["content"], after, is_last=False)
            if span is None:
                raise self._refuse(messages, f"message {index + 1} is not in what it writes")
            spans.append(span)
            before, position = after, span.stop + len(after)
        tail = between[-1]
        ends = [tail.index(token) + len(token) for token in self._ends if token in tail]
        return spans, tail[: min(ends)] if ends else ""

    def _between(self, messages: list[Message]) -> list[str]:
        """What the template writes before, between and after the contents of messages."""
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        frame = self._apply(
            [{"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)]
        )
        parts = []
        for mark in marks:
            before, separator, frame = frame.partition(mark)
            if not separator or mark in frame:
                raise self._refuse(messages, "it does not write every message once and in order")
            parts.append(before)
        return [*parts, frame]

    def _prompt(self, messages: list[Message]) -> str:
        """What the template writes after the last of the messages, to ask for an answer."""
        marked: list[Message] = [{"role": one["role"], "content": f"\ue000{i}\ue001"} for i, one in enumerate(messages)]
        return self._apply(marked, prompt=True).rpartition(marked[-1]["content"])[2]

    def _changed_answer(
        self, asked: list[Message], text: str, position: int, after: str, *, is_last: bool
    ) -> _Span | None:
        """An answer that the template changes (moved or omitted thinking): everything after the generation prompt.

        Args:
            asked: the messages before it.
            text: the rendered text.
            position: end in `text` of the message before the answer.
            after: what follows the answer.
            is_last: whether the answer is the last message.
        """
        prompt = self._prompt(asked)
        if not text.startswith(prompt, position):
            return None
        start = position + len(prompt)
        stop = len(text) - len(after) if is_last else text.find(after, start)
        return _Span(start, stop) if start < stop and text.startswith(after, stop) else None

    def _encode(
        self, text: str, spans: Sequence[_Span], messages: Sequence[Message]
    ) -> tuple[Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids, and the characters at which each token begins and ends."""
        pieces = [(self._whole, 0, len(text))]
        if any(token in message["content"] for message in messages for token in self._control):
            pieces = list(self._pieces(spans, len(text)))
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for tokenizer, start, stop in pieces:
            encoding = tokenizer.encode(text[start:stop], add_special_tokens=False)
            ids += encoding.ids
            offsets += [(first + start, end + start) for first, end in encoding.offsets]
        if ids and max(ids) >= self._num_embeddings:
            raise self._refuse(
                messages, f"it gives the id {max(ids)}, and the model embeds {self._num_embeddings} tokens"
            )
        positions = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(ids, dtype=np.uint32), positions[:, 0], positions[:, 1]

    def _pieces(self, spans: Sequence[_Span], length: int) -> Iterator[tuple[tokenizers.Tokenizer, int, int]]:
        """Split into text of the template and text of messages: a control token in a message is text."""
        at = 0
        for span in spans:
            yield self._whole, at, span.start
            yield self._plain, span.start, span.stop
            at = span.stop
        yield self._whole, at, length

    def _refuse(self, messages: Sequence[Message], why: str) -> RefusedConversationError:
        error = RefusedConversationError(
            f"the chat template cannot be followed for the conversation that begins "
            f"{messages[0]['content'][:60]!r}: {why}",
            where=self._where,
            remedy="take this conversation out, or use a model with another chat template",
        )
        error.why = why
        return error


def encode_documents(
    texts: Sequence[str],
    messages: Sequence[str | None],
    tokenizer: Tokenizer,
    template: Callable[[], ChatTemplate] | None,
    refused: dict[int, str] | None = None,
) -> tuple[list[Ids], list[Answers | None]]:
    """Ids of documents, and the positions of the answers in conversations; None for other documents.

    Args:
        texts: one per document.
        messages: the column `messages`: None if a document is not a conversation.
        tokenizer: encodes texts.
        template: opens the model's chat template; called if there is a conversation.
        refused: filled with the row of each conversation that the template refuses, and why; it gets no ids. None: a
            refusal is an error.

    Raises:
        UserError: see `Tokenizer.encode_batch` and `ChatTemplate.render`.
    """
    plain = [row for row, one in enumerate(messages) if one is None]
    if len(plain) == len(texts):
        return tokenizer.encode_batch(list(texts)), [None] * len(texts)
    assert template is not None, "conversations need a chat template"
    ids: list[Ids] = [np.empty(0, dtype=np.uint32)] * len(texts)
    answers: list[Answers | None] = [None] * len(texts)
    for row, one in zip(plain, tokenizer.encode_batch([texts[row] for row in plain]), strict=True):
        ids[row] = one
    for row, column in enumerate(messages):
        if column is not None:
            try:
                ids[row], answers[row] = template().render(load_messages(column))
            except RefusedConversationError as error:
                if refused is None:
                    raise
                refused[row] = error.why
    return ids, answers


def _match(text: str, position: int, content: str, after: str, *, is_last: bool) -> _Span | None:
    """Find a message's content in the rendered text, unchanged or without white space at its ends."""
    for form in dict.fromkeys((content, content.strip(), content.rstrip(), content.lstrip())):
        stop = position + len(form)
        if text.startswith(form, position) and (text[stop:] == after if is_last else text.startswith(after, stop)):
            return _Span(position, stop)
    return None


def _without_post_processor(backend: Any) -> tokenizers.Tokenizer:
    description = json.loads(backend.to_str())
    description["post_processor"] = None
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
