"""Convert records that contain a conversation, in the usual formats, to messages; invalid ones are rejected.

messages: [{role, content}, ...]       also `conversations` with `from` and `value`, `conversation`, `dialogue`
prompt + response                      also `completion`; each a text, or messages
instruction + input + output           with `history` (pairs) and `system` if present
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reprise.documents.read.fields import UnreadableError
from reprise.model.conversation import Message, Role
from reprise.recipe.documents import CONVERSATION_FIELDS, Input

Lookup = Callable[[str], Any]
"""Function from a name in the file to its value, None if there is none."""

UNANSWERED = "messages behind the last answer"
"""Key under which skipped messages are counted: they would not be trained on."""

_USUAL: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog"),
    "prompt": ("prompt", "instruction", "query"),
    "input": ("input",),
    "response": ("response", "completion", "output"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
}
_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_TOOL_ROLES = {"tool", "function", "observation", "ipython", "function_call", "tool_call", "tool_response"}


def names_of_conversations(entry: Input) -> dict[str, tuple[str, ...]]:
    """Field -> names that it may have in the file: those that the recipe maps, or else the usual ones."""
    names = {}
    for field, usual in _USUAL.items():
        mapped = entry.fields.get(field)
        if field not in entry.fields:
            names[field] = usual
        elif mapped is not None:
            names[field] = (mapped,)
    return names


def is_told(entry: Input) -> bool:
    """Whether the recipe says that the documents of an input are conversations."""
    return any(entry.fields.get(field) is not None for field in CONVERSATION_FIELDS)


def may_be_recognised(entry: Input) -> bool:
    """Whether a record without a text may be a conversation; not if the recipe names the field of the text."""
    return "text" not in entry.fields


def find_conversation(lookup: Lookup, entry: Input) -> tuple[list[Message], bool] | None:
    """The messages of a record, and whether some after the last answer were skipped; None if there are no such fields.

    Raises:
        UnreadableError: the fields exist, but do not contain a valid conversation.
    """
    values = {
        field: next((value for name in names if (value := lookup(name)) is not None), None)
        for field, names in names_of_conversations(entry).items()
    }
    if (messages := values.get("messages")) is not None:
        raw = list(_as_list(messages))
    elif values.get("prompt") is not None and values.get("response") is not None:
        raw = list(_of_pair(values))
    elif is_told(entry):
        raise UnreadableError("no_conversation")
    else:
        return None
    system = values.get("system")
    if isinstance(system, str) and system.strip():
        raw.insert(0, {"role": "system", "content": system})
    return _checked([_message(one) for one in raw])


def _as_list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise UnreadableError("messages_are_not_a_list")
    return value


def _of_pair(values: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the messages of a prompt and a response."""
    for pair in _as_list(values["history"]) if values.get("history") else []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UnreadableError("history_is_not_of_pairs")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}
    prompt, response, more = values["prompt"], values["response"], values.get("input")
    if isinstance(prompt, str) and isinstance(more, str) and more.strip():
        prompt = f"{prompt}\n\n{more}"
    for role, value in (("user", prompt), ("assistant", response)):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield {"role": role, "content": value}


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise UnreadableError("message_is_not_an_object")
    said = value.get("role") or value.get("from")
    name = said.strip().lower() if isinstance(said, str) else ""
    if name in _TOOL_ROLES or value.get("tool_calls") or value.get("function_call"):
        raise UnreadableError("tool_message")
    if name not in _ROLES:
        raise UnreadableError("unknown_role")
    content = value.get("content")
    content = value.get("value") if content is None else content
    if isinstance(content, list | tuple):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise UnreadableError("message_is_not_text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UnreadableError("message_is_not_text")
    return {"role": _ROLES[name], "content": content}


def _checked(messages: list[Message]) -> tuple[list[Message], bool]:
    """Check the order: an optional system message, then user and assistant alternating up to the last answer."""
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        del messages[0]  # equivalent to no system message
    first = int(bool(messages) and messages[0]["role"] == "system")
    if len(messages) == first:
        raise UnreadableError("no_messages")
    if any(message["role"] == "system" for message in messages[first:]):
        raise UnreadableError("system_message_is_not_the_first")
    for index, message in enumerate(messages[first:]):
        if message["role"] != ("assistant" if index % 2 else "user"):
            raise UnreadableError("roles_do_not_alternate")
        if not message["content"].strip("\ufeff \t\r\n\x00"):
            raise UnreadableError("empty_message")
    unanswered = messages[-1]["role"] == "user"
    if unanswered:
        messages = messages[:-1]
    if len(messages) == first:
        raise UnreadableError("no_answer")
    return messages, unanswered
