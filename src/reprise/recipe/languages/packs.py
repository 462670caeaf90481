"""A language pack: what the stages need to know about one language, as one YAML file.

Ours are `packs/CODE.yaml`; a recipe can name a folder of its own (`documents.language_packs`), whose files are laid
over ours. A pack says what it knows: a threshold that it does not give is off, never that of another language.
"""

import functools
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from langcodes import data_dicts
from pydantic import AfterValidator, ValidationError

from reprise.errors import UserError
from reprise.recipe.fields import Settings
from reprise.recipe.heuristics import Heuristics
from reprise.recipe.languages.codes import find_language
from reprise.yaml_text import read_yaml

FOLDER = Path(__file__).with_name("packs")


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression of Python's `re`."""


class Pack(Settings):
    """One language."""

    name: str
    """English name of the language."""
    source: str = ""
    """Where the figures come from, and under which licence."""
    heuristics: Heuristics = Heuristics()
    """Thresholds, stop words and sentence marks for `documents.clean.heuristics`."""
    personal_data: dict[str, list[Pattern]] = {}
    """Kind, such as `phone` or `id` -> regular expressions, masked besides those of every language."""
    topics: list[str] = []
    """Names of the topics; empty: the English ones."""
    prompts: dict[str, dict[str, Any]] = {}
    """Task, such as `topic` or `grade` -> what a prompt file holds; a task without one is asked about in English."""
    templates: list[str] = []
    """Forms of a question-answer document, with {question} and {answer}."""


@functools.cache
def load_pack(language: str) -> Pack:
    """Our pack of a language; of its macrolanguage if it has none; an empty one if neither has one."""
    macro = find_language(data_dicts.MACROLANGUAGES.get(language, "")) or language
    for code in (language, macro):
        path = FOLDER / f"{code}.yaml"
        if path.is_file():
            return read_pack(path)
    return Pack(name=language)


def english_name(path: str) -> str:
    """A path of the mixture such as `no` or `zh/web`, with the English name of a language that has a pack of ours.

    A sentence must not say "gained no" of Norwegian, or "lost it" of Italian.
    """
    entry, slash, source = path.partition("/")
    return f"{load_pack(entry).name}{slash}{source}" if entry in shipped() else path


@functools.cache
def shipped() -> tuple[str, ...]:
    """Codes of the languages that have a pack of ours."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read_pack(path: Path) -> Pack:
    """Read and check a pack.

    Raises:
        UserError: the file cannot be read, is not YAML, or a value does not pass its check.
    """
    try:
        return Pack.model_validate(read_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        mistakes = "; ".join(
            f"`{'.'.join(map(str, item['loc']))}`: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise UserError(f"not a language pack: {mistakes}", where=str(path)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"not a language pack: {reason}", where=str(path), remedy="write one YAML file") from None


def read_folder(folder: Path) -> dict[str, Pack]:
    """Language -> pack, of the user's folder of files CODE.yaml.

    Raises:
        UserError: the folder does not exist or holds no pack, a file name is no language code, or a pack is not valid.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            "there is no language pack in this folder",
            where=f"documents.language_packs={folder}",
            remedy="name a folder that holds files such as tr.yaml",
        )
    packs: dict[str, Pack] = {}
    for path in paths:
        language = find_language(path.stem)
        if language is None:
            raise UserError(f"{path.stem!r} is no language code", where=str(path), remedy="name the file tr.yaml")
        packs[language] = read_pack(path)
    return packs
