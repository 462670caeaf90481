"""Prompt files, one for each task and language, and how they are filled."""

import importlib.resources
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from reprise.errors import UserError
from reprise.generators.generator import Request

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


@cache
def load_prompt(kind: str, language: str, folder: str | None = None) -> Prompt:
    """The prompt file KIND.LANGUAGE.yaml of the user's folder, else the one that comes with Reprise.

    Raises:
        UserError: there is none, or it is not a prompt file.
    """
    name = f"{kind}.{language}.yaml"
    own = Path(folder).expanduser() / name if folder else None
    if own is not None and not own.parent.is_dir():
        raise UserError(
            "the folder does not exist", where=f"synthesis.prompts={folder}", remedy="name a folder of prompts"
        )
    if own is not None and own.is_file():
        return _parse(own.read_text(encoding="utf-8"), f"{kind}.{language}", str(own))
    ours = importlib.resources.files("reprise.synthesis") / "prompts" / name
    if not ours.is_file():
        raise UserError(
            f"there is no prompt for the kind {kind!r} in the language {language!r}",
            where="synthesis.kinds, synthesis.languages",
            remedy=f"write {name} into a folder named in synthesis.prompts; there are: {', '.join(known())}",
        )
    return _parse(ours.read_text(encoding="utf-8"), f"{kind}.{language}", name)


def known() -> list[str]:
    """KIND.LANGUAGE of the prompts that come with Reprise."""
    folder = importlib.resources.files("reprise.synthesis") / "prompts"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _parse(text: str, name: str, where: str) -> Prompt:
    try:
        data: Any = yaml.safe_load(text)
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
