"""A prompt file: what is asked for one task in one language, and how it is filled."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from reprise.errors import UserError
from reprise.generators.generator import Request
from reprise.yaml_text import read_yaml

_PLACE = re.compile(r"\{(\w+)\}")
_KEYS = {"version", "sections", "begin", "stop", "messages", "endings"}


@dataclass(frozen=True)
class Prompt:
    """A prompt file."""

    name: str
    """KIND.LANGUAGE@VERSION, for the provenance."""
    sections: dict[str, str]
    """Section -> the mark that begins it, in order; empty where the answer is free."""
    messages: tuple[tuple[str, str], ...]
    """(role, text with places such as {text})."""
    begin: str = ""
    stop: tuple[str, ...] = ()
    endings: tuple[tuple[str, str], ...] = ()
    """Name -> text for the place {ending}."""

    def request(self, *, max_tokens: int, temperature: float, top_p: float, sample: int = 0, **values: str) -> Request:
        """The request with the places filled; text that is filled in is not searched for places again.

        Raises:
            KeyError: a place of the prompt has no value.
        """
        messages = tuple((role, _PLACE.sub(lambda match: values[match[1]], text)) for role, text in self.messages)
        return Request(messages, max_tokens, temperature, top_p, self.begin, self.stop, sample)


def parse_prompt(text: str, name: str, where: str) -> Prompt:
    """Read a prompt file.

    Args:
        text: YAML with version, messages and perhaps sections, begin, stop, endings.
        name: KIND.LANGUAGE.
        where: the file, for errors.

    Raises:
        UserError: it is not a prompt file.
    """
    try:
        data: Any = read_yaml(text)
        if unknown := set(data) - _KEYS:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}; valid: {', '.join(sorted(_KEYS))}")
        return Prompt(
            name=f"{name}@{data['version']}",
            sections={str(section): str(mark) for section, mark in (data.get("sections") or {}).items()},
            messages=tuple((str(message["role"]), str(message["text"])) for message in data["messages"]),
            begin=str(data.get("begin") or ""),
            stop=tuple(str(stop) for stop in data.get("stop") or ()),
            endings=tuple((data.get("endings") or {}).items()),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"not a prompt file: {reason}",
            where=where,
            remedy="it holds version, sections and messages of role and text",
        ) from None
