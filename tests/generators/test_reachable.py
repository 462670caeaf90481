"""Keys that no header can hold, servers that are none, and redirects."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from reprise.errors import UserError
from reprise.generators.keys import read_key
from reprise.generators.openai_server import OpenAIServer
from reprise.generators.reachable import check_server
from reprise.recipe.generator import Generator

KEY = "sk-0123456789abcdef"


@contextlib.contextmanager
def banner(text):
    """The port of a server that says this to everybody and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(text)
                    connection.settimeout(1.0)
                    connection.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


@contextlib.contextmanager
def http_server(status, location=None):
    """(port, headers of the requests that came) of a server that answers all with one status."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(dict(self.headers))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, came
    finally:
        server.shutdown()
        server.server_close()


def asked(port):
    return list(check_server(f"http://127.0.0.1:{port}/v1", "SOME_KEY", "synthesis.generator"))


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 70_000, b"x" * 70_000]
)
def test_a_server_that_speaks_something_else_is_a_finding(said, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with banner(said) as port:
        (finding,) = asked(port)
    assert "does not answer" in finding.what
    assert KEY not in str(finding)


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY} x", f"{KEY}\x00", f"{KEY}é", f"{KEY}你"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_repeated(key, monkeypatch):
    monkeypatch.setattr("os.environ", {"SOME_KEY": key})
    settings = Generator(kind="openai", base_url="http://127.0.0.1:9/v1", model="m", api_key_env="SOME_KEY")
    for use in (lambda: asked(9), lambda: OpenAIServer(settings, "synthesis.generator")):
        with pytest.raises(UserError, match="SOME_KEY") as refused:
            use()
        assert KEY not in str(refused.value)


def test_white_space_around_a_key_is_left_out(monkeypatch):
    monkeypatch.setenv("SOME_KEY", f"  {KEY}\r\n")
    assert read_key("SOME_KEY", "x") == KEY
    monkeypatch.delenv("SOME_KEY")
    assert read_key("SOME_KEY", "x") == ""


def test_a_redirect_does_not_get_the_key(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with http_server(200) as (other, came), http_server(302, f"http://127.0.0.1:{other}/models") as (port, first):
        assert asked(port) == []
    assert first[0]["Authorization"] == f"Bearer {KEY}"
    assert came and "Authorization" not in came[0]


def test_a_refused_key_is_a_finding(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with http_server(401) as (port, _):
        (finding,) = asked(port)
    assert "HTTP 401" in finding.what and "SOME_KEY" in finding.remedy


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999/v1", "http://127.0.0.1:0/v1", "http://a b/v1", "http://a\n/v1", "http://x:abc/v1",
                "file:///etc/passwd", "http://[::1/v1", "http://user:secret@host/v1"]
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_being_repeated(address):
    with pytest.raises(ValueError) as refused:
        Generator(kind="openai", base_url=address, model="m")
    assert any(word in str(refused.value).lower() for word in ("port", "address", "ipv6"))
