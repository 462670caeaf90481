"""Prompt files: find the prompt of a task and language, read it, and fill in its placeholders."""

import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprise.errors import UserError
from reprise.generators.generator import Request
from reprise.yaml_text import format_yaml, read_yaml

_PLACE = re.compile(r"\{(\w+)\}")
_KEYS = {"version", "sections", "begin", "stop", "messages", "endings"}


@dataclass(frozen=True)
class Prompt:
    """A prompt file."""

    name: str
    """KIND.LANGUAGE@VERSION, for the provenance records."""
    sections: dict[str, str]
    """Section -> mark at its beginning, in order; empty if the answer has no sections."""
    messages: tuple[tuple[str, str], ...]
    """(role, text with placeholders such as {text}) of each message."""
    begin: str = ""
    stop: tuple[str, ...] = ()
    endings: tuple[tuple[str, str], ...] = ()
    """Name -> text that replaces the placeholder {ending}."""

    def request(self, *, max_tokens: int, temperature: float, top_p: float, sample: int = 0, **values: str) -> Request:
        """The request with filled placeholders; inserted text is not searched for placeholders.

        Raises:
            KeyError: a placeholder of the prompt has no value.
        """
        messages = tuple((role, _PLACE.sub(lambda match: values[match[1]], text)) for role, text in self.messages)
        return Request(messages, max_tokens, temperature, top_p, self.begin, self.stop, sample)


def find_prompt(
    task: str,
    language: str,
    *,
    folder: str | None,
    setting: str,
    package: str,
    given: Sequence[tuple[Any, str]] = (),
    placeholders: Sequence[str] = (),
) -> Prompt | None:
    """The prompt of a task in a language; None if there is none.

    The first of these that exists is used: TASK.LANGUAGE.yaml in the user's folder, the prompts in `given`, the folder
    `prompts` of the package.

    Args:
        task: name of the task, such as `topic`.
        language: language of the prompt, such as `tr`.
        folder: the user's folder of prompts; None: there is none.
        setting: dotted name of the setting with this folder, for errors.
        package: package whose prompts are used last.
        given: prompts of a recipe or a language pack, each as (mapping as in a prompt file, or None or empty if there
            is none; where it comes from, for errors).
        placeholders: names that the messages must contain in braces.

    Raises:
        UserError: the user's folder does not exist, or a prompt is damaged or lacks a placeholder.
    """
    name = f"{task}.{language}"
    own = Path(folder).expanduser() if folder else None
    if own is not None and not own.is_dir():
        raise UserError("the folder does not exist", where=f"{setting}={folder}", remedy="name a folder of prompts")
    ours = importlib.resources.files(package) / "prompts" / f"{name}.yaml"
    written = next(((value, where) for value, where in given if value), None)
    if own is not None and (own / f"{name}.yaml").is_file():
        text, where = (own / f"{name}.yaml").read_text(encoding="utf-8"), str(own / f"{name}.yaml")
    elif written is not None:
        text, where = format_yaml(written[0]), written[1]
    elif ours.is_file():
        text, where = ours.read_text(encoding="utf-8"), f"{name}.yaml"
    else:
        return None
    prompt = parse_prompt(text, name, where)
    messages = "".join(message for _, message in prompt.messages)
    if missing := [f"{{{word}}}" for word in placeholders if f"{{{word}}}" not in messages]:
        raise UserError(f"the prompt has no {' and no '.join(missing)}", where=where, remedy="write it into the prompt")
    return prompt


def parse_prompt(text: str, name: str, where: str) -> Prompt:
    """Read a prompt file.

    Args:
        text: YAML with version, messages and perhaps sections, begin, stop, endings.
        name: KIND.LANGUAGE of the prompt.
        where: path of the file, for errors.

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
