"""The API key of a server: read from the environment, sent to the server, never written anywhere."""

import os

from reprise.errors import UserError


def read_key(variable: str, setting: str) -> str:
    """The key in an environment variable, without surrounding white space; empty if the variable is not set.

    Args:
        variable: name of the environment variable.
        setting: dotted name of the section that names the variable, for the message.

    Raises:
        UserError: an HTTP header cannot contain the key. Libraries would print it in their errors.
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
