"""The prompt files of synthesis, one for each task and language: the user's, else ours."""

import importlib.resources
from functools import cache
from pathlib import Path

from reprise.errors import UserError
from reprise.generators.prompts import Prompt, parse_prompt


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
        return parse_prompt(own.read_text(encoding="utf-8"), f"{kind}.{language}", str(own))
    ours = importlib.resources.files("reprise.synthesis") / "prompts" / name
    if not ours.is_file():
        raise UserError(
            f"there is no prompt for the kind {kind!r} in the language {language!r}",
            where="synthesis.kinds, synthesis.languages",
            remedy=f"write {name} into a folder named in synthesis.prompts; there are: {', '.join(known())}",
        )
    return parse_prompt(ours.read_text(encoding="utf-8"), f"{kind}.{language}", name)


def known() -> list[str]:
    """KIND.LANGUAGE of the prompts that come with Reprise."""
    folder = importlib.resources.files("reprise.synthesis") / "prompts"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
