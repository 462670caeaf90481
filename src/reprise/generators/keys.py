"""The key of a server, which is read from the environment, sent, and written nowhere."""

import os

from reprise.errors import UserError


def read_key(variable: str, setting: str) -> str:
    """The key in an environment variable without white space around it; empty if it is not set.

    Args:
        variable: its name.
        setting: dotted name of the section that names it, for the message.

    Raises:
        UserError: no HTTP header can hold it. Libraries would repeat it in their errors.
    """
    key = os.environ.get(variable, "").strip()
    if not all(33 <= ord(character) <= 126 for character in key):
        raise UserError(
            f"the environment variable {variable} holds a space, a line end or a character that is not ASCII, which no "
            "key has",
            where=f"{setting}.api_key_env={variable}",
            remedy="set it to the key alone",
        )
    return key
