"""Whether a server answers one small request, before hours of work lead up to it."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator

from reprise.errors import Finding

TIMEOUT_S = 5.0


def check_server(base_url: str, api_key_env: str, setting: str) -> Iterator[Finding]:
    """Ask a server for its models, without retries; any answer but a refusal of the key will do.

    Args:
        base_url: address of the server.
        api_key_env: environment variable that holds the key.
        setting: dotted name of the section that names the server.
    """
    request = urllib.request.Request(f"{base_url}/models")
    if key := os.environ.get(api_key_env):
        request.add_header("Authorization", f"Bearer {key}")
    where = f"{setting}.base_url={base_url}"
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = f"put a valid key into the environment variable {api_key_env}"
            yield Finding(f"the server refuses the key (HTTP {error.code})", where, remedy, "missing")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "start the server, or correct the address"
        yield Finding(f"the server does not answer: {reason}", where, remedy, "missing")
