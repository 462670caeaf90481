"""A language pack: the settings that stages need for one language, in one YAML file.

Ours are `packs/CODE.yaml`; a recipe can name a folder of its own (`documents.language_packs`), whose files override
ours. A threshold that a pack does not set is off; it never has the value of another language.
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
"""A regular expression for Python's `re`."""


class Pack(Settings):
    """The settings of one language."""

    name: str
    """English name of the language."""
    source: str = ""
    """Source of the figures, and its licence."""
    heuristics: Heuristics = Heuristics()
    """Thresholds, stop words and sentence marks for `documents.clean.heuristics`."""
    personal_data: dict[str, list[Pattern]] = {}
    """Kind, such as `phone` or `id` -> regular expressions to mask, in addition to those for every language."""
    topics: list[str] = []
    """Names of the topics; empty: the English ones."""
    prompts: dict[str, dict[str, Any]] = {}
    """Task, such as `topic` or `grade` -> content of a prompt file; without one, the English prompt is used."""
    templates: list[str] = []
    """Templates of a question-answer document, with {question} and {answer}."""


@functools.cache
def load_pack(language: str) -> Pack:
    """Our pack of a language, or of its macrolanguage; an empty one if neither exists."""
    macro = find_language(data_dicts.MACROLANGUAGES.get(language, "")) or language
    for code in (language, macro):
        path = FOLDER / f"{code}.yaml"
        if path.is_file():
            return read_pack(path)
    return Pack(name=language)


def english_name(path: str) -> str:
    """A path of the mixture such as `no` or `zh/web`, with the English name of the language if we have a pack for it.

    A sentence must not say "gained no" for Norwegian, or "lost it" for Italian.
    """
    entry, slash, source = path.partition("/")
    return f"{load_pack(entry).name}{slash}{source}" if entry in shipped() else path


@functools.cache
def shipped() -> tuple[str, ...]:
    """Codes of the languages for which we have a pack."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read_pack(path: Path) -> Pack:
    """Read and check a pack.

    Raises:
        UserError: the file cannot be read, is not YAML, or contains an invalid value.
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
    """Language -> pack, from the user's folder of files CODE.yaml.

    Raises:
        UserError: the folder does not exist or contains no pack, a file name is no language code, or a pack is invalid.
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
