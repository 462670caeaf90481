"""Whether a server answers one small request, before hours of work lead up to it."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator

from reprise.errors import Finding
from reprise.generators.keys import read_key

TIMEOUT_S = 5.0


def ask_models(base_url: str, key: str, timeout_s: float, num_bytes: int = 8 << 20) -> bytes:
    """What a server says of its models, at most so many bytes of it.

    Args:
        base_url: address of the server.
        key: sent to this address alone, and not where it redirects to; empty: none.
        timeout_s: seconds without an answer.
        num_bytes: bytes of the answer to read.

    Raises:
        urllib.error.HTTPError: it refuses.
        OSError: it does not answer.
        ValueError: what answers speaks no HTTP.
    """
    request = urllib.request.Request(f"{base_url}/models")
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            body: bytes = reply.read(num_bytes)
    except http.client.HTTPException as error:
        raise ValueError(f"it does not speak HTTP ({type(error).__name__})") from None
    return body


def check_server(base_url: str, api_key_env: str, setting: str) -> Iterator[Finding]:
    """Ask a server for its models, without retries; any answer but a refusal of the key will do.

    Args:
        base_url: address of the server.
        api_key_env: environment variable that holds the key.
        setting: dotted name of the section that names the server.

    Raises:
        UserError: see `read_key`.
    """
    where = f"{setting}.base_url={base_url}"
    key = read_key(api_key_env, setting)
    try:
        ask_models(base_url, key, TIMEOUT_S, num_bytes=0)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = f"put a valid key into the environment variable {api_key_env}"
            yield Finding(f"the server refuses the key (HTTP {error.code})", where, remedy, "missing")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        remedy = "start the server, or correct the address"
        yield Finding(f"the server does not answer: {reason}", where, remedy, "missing")
