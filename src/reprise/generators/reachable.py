"""Check that a server answers one small request, before a run spends hours on the stages that precede its use."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator

from reprise.errors import Finding
from reprise.generators.keys import read_key

TIMEOUT_S = 5.0


def ask_models(base_url: str, key: str, timeout_s: float, num_bytes: int = 8 << 20) -> bytes:
    """The server's response to a query for its models, at most `num_bytes` of it.

    Args:
        base_url: address of the server.
        key: API key, sent only to this address and not to redirects; empty: none is sent.
        timeout_s: longest wait for a response, in seconds.
        num_bytes: most bytes of the response to read.

    Raises:
        urllib.error.HTTPError: the server refuses the request.
        OSError: the server does not answer.
        ValueError: the server's answer is not HTTP.
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
    """Ask a server for its models, once; only a refused key or no answer is a finding.

    Args:
        base_url: address of the server.
        api_key_env: environment variable that contains the key.
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
