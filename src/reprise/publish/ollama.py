"""An Ollama Modelfile for a GGUF file: its path, the chat template in Ollama's language, and the stop tokens.

Ollama uses Go templates, not Jinja. The Go template is built from the texts that the model's template puts around a
system, a user and an assistant message, and is only used if both templates agree on several conversations.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reprise.model.loading import load_generation_settings, load_tokenizer
from reprise.publish.gguf_tokenizer import end_of_turn
from reprise.recipe.model import Model

Messages = list[dict[str, str]]

_S, _U, _A, _V = "System sentinel 71", "User sentinel 72", "Answer sentinel 73", "Second sentinel 74"
_PROBES: list[Messages] = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two lines\nof text"}],
    [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "您好!"},
        {"role": "user", "content": "Tell me more"},
        {"role": "assistant", "content": "More."},
        {"role": "user", "content": "Thanks"},
    ],
    [
        {"role": "system", "content": "System"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
]


@dataclass(frozen=True)
class ChatFormat:
    """The texts that a chat template puts around messages."""

    before_all: str
    """Text at the beginning of every conversation, such as BOS."""
    system: tuple[str, str]
    without_system: str
    """Default system message, for conversations without one."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    """Beginning of the answer that the model is to generate."""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Format a conversation as the Modelfile's template does."""
        system = "".join(message["content"] for message in messages if message["role"] == "system")
        first = f"{self.system[0]}{system}{self.system[1]}" if system else self.without_system
        sides = {"user": self.user, "assistant": self.assistant}
        turns = (
            f"{sides[message['role']][0]}{message['content']}{sides[message['role']][1]}"
            for message in messages
            if message["role"] != "system"
        )
        return f"{self.before_all}{first}{''.join(turns)}{self.answer}"

    def as_go_template(self, *, leaves_out: str = "") -> str:
        """Convert the format to a Go template.

        Args:
            leaves_out: text at the beginning that llama.cpp adds by itself, such as BOS.
        """
        before = self.before_all.removeprefix(leaves_out)
        return (
            f"{before}{{{{ if .System }}}}{self.system[0]}{{{{ .System }}}}{self.system[1]}{{{{ else }}}}"
            f"{self.without_system}{{{{ end }}}}{{{{ range .Messages }}}}"
            f'{{{{ if eq .Role "user" }}}}{self.user[0]}{{{{ .Content }}}}{self.user[1]}'
            f'{{{{ else if eq .Role "assistant" }}}}{self.assistant[0]}{{{{ .Content }}}}{self.assistant[1]}'
            f"{{{{ end }}}}{{{{ end }}}}{self.answer}"
        )


def find_chat_format(tokenizer: Any) -> tuple[ChatFormat | None, str]:
    """Determine the texts that a chat template puts around messages; None and the reason if it is not that simple."""
    if tokenizer.chat_template is None:
        return None, "the model has no chat template"
    try:
        chat_format = _take_apart(tokenizer)
        for messages in _PROBES:
            if chat_format.render(messages) != _render(tokenizer, messages):
                return None, "its chat template depends on more than the role of each message"
    except Exception as error:  # templates raise any exception to refuse a conversation
        said = str(error).splitlines()[0][:100] if str(error) else repr(error)
        return None, f"its chat template refuses a plain conversation ({said})"
    texts = (
        chat_format.before_all,
        *chat_format.system,
        chat_format.without_system,
        *chat_format.user,
        *chat_format.assistant,
        chat_format.answer,
    )
    if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
        return None, "its chat template holds marks of the Modelfile's own language"
    return chat_format, ""


def _render(tokenizer: Any, messages: Sequence[dict[str, str]], *, answer: bool = True) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer))


def _take_apart(tokenizer: Any) -> ChatFormat:
    """Determine the texts by rendering conversations of sentinels."""
    user, reply = {"role": "user", "content": _U}, {"role": "assistant", "content": _A}
    system, second = {"role": "system", "content": _S}, {"role": "user", "content": _V}
    whole = _render(tokenizer, [user, reply, second])
    with_system = _render(tokenizer, [system, user, reply, second])
    before_user, rest = whole.split(_U)
    between, rest = rest.split(_A)
    after_answer, last = rest.split(_V)
    before_system, after_system = with_system.split(_U)[0].split(_S)
    plain = _render(tokenizer, [user, reply, second], answer=False)
    after_user = plain.split(_V)[1]
    answer = last.removeprefix(after_user)
    opens_answer = between.removeprefix(after_user)
    two = _render(tokenizer, [user, reply], answer=False).split(_A)[1]
    opens_user = after_answer.removeprefix(two)
    # The text before the first user message's own opening: BOS, and maybe a default system message.
    first = before_user.removesuffix(opens_user)
    after_system = after_system.removesuffix(opens_user)
    shared = "".join(
        a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, before_system, strict=False))
    )
    bos = tokenizer.bos_token or ""
    common = bos if bos and shared.startswith(bos) else ""
    return ChatFormat(
        before_all=common,
        system=(before_system.removeprefix(common), after_system),
        without_system=first.removeprefix(common),
        user=(opens_user, after_user),
        assistant=(opens_answer, two),
        answer=answer,
    )


def write_modelfile(model: Model, gguf_name: str, *, adds_bos: bool) -> tuple[str, str]:
    """Write the text of a Modelfile, and a sentence about its template.

    Args:
        model: the model directory.
        gguf_name: name of the GGUF file, which is in the same folder.
        adds_bos: whether llama.cpp adds BOS to a prompt by itself.
    """
    tokenizer = load_tokenizer(model)
    lines = [f"FROM ./{gguf_name}"]
    chat, problem = find_chat_format(tokenizer)
    if chat is not None:
        bos = tokenizer.bos_token if adds_bos and tokenizer.bos_token else ""
        lines.append(f'TEMPLATE """{chat.as_go_template(leaves_out=bos)}"""')
        said = "the template gives what the model's own chat template gives"
    elif tokenizer.chat_template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
        said = "no chat template: the model continues text"
    else:
        lines.append(f"# {problem}: Ollama chooses a template by that of the GGUF file.")
        said = f"warning: {problem}; Ollama chooses one by that of the GGUF file"
    generation = load_generation_settings(model)
    ends = [] if generation is None else generation.eos_token_id
    ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    stops = set(tokenizer.convert_ids_to_tokens(sorted(ids)))
    # A template may end answers with text that is no token of its own.
    stops.add(end_of_turn(tokenizer) or (chat.assistant[1].strip() if chat is not None else ""))
    lines += [f'PARAMETER stop "{stop}"' for stop in sorted(stops) if stop and not {'"', "\n"} & set(stop)]
    return "\n".join(lines) + "\n", said
