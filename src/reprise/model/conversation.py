"""A conversation: messages of a system, a user and an assistant, as stored in the document table beside the text."""

import json
from collections.abc import Sequence
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One message."""

    role: Role
    content: str


def dump_messages(messages: Sequence[Message]) -> str:
    """Messages as stored in the column `messages`: a JSON list of objects with `role` and `content`."""
    return json.dumps(
        [{"role": message["role"], "content": message["content"]} for message in messages], ensure_ascii=False
    )


def load_messages(column: str) -> list[Message]:
    """Messages of the column `messages`."""
    messages: list[Message] = json.loads(column)
    return messages


def text_of(messages: Sequence[Message]) -> str:
    """The text of the document: all contents, with an empty line between them. Roles are not in it."""
    return "\n\n".join(message["content"] for message in messages)


def answer_bytes(messages: Sequence[Message]) -> int:
    """UTF-8 bytes of the answers: the denominator of a conversation's bits per byte, whatever the template."""
    return sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")
