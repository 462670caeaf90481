"""Prompt files of synthesis, one for each task and language: the user's, or those shipped with Reprise."""

import importlib.resources
from functools import cache

from reprise.errors import UserError
from reprise.generators.prompts import Prompt, find_prompt


@cache
def load_prompt(kind: str, language: str, folder: str | None = None) -> Prompt:
    """Load KIND.LANGUAGE.yaml from the user's folder, or the one shipped with Reprise.

    Raises:
        UserError: the prompt does not exist, or the file is not a prompt file.
    """
    prompt = find_prompt(kind, language, folder=folder, setting="synthesis.prompts", package="reprise.synthesis")
    if prompt is None:
        raise UserError(
            f"there is no prompt for the kind {kind!r} in the language {language!r}",
            where="synthesis.kinds, synthesis.languages",
            remedy=f"write {kind}.{language}.yaml into a folder named in synthesis.prompts; "
            f"there are: {', '.join(known())}",
        )
    return prompt


def known() -> list[str]:
    """KIND.LANGUAGE of the prompts shipped with Reprise."""
    folder = importlib.resources.files("reprise.synthesis") / "prompts"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
