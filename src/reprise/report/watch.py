"""`reprise watch`: the live page of a run, served to this machine only."""

import hashlib
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.report.facts import gather
from reprise.report.page import PLOTLY, plotly_source, render_report
from reprise.workspace import Workspace

HOST = "127.0.0.1"

REST = 10
"""After rendering a page, wait REST times as long, so that rendering takes about a tenth of one core at most."""


def open_watch(workspace: Workspace, recipe: Recipe, port: int = 0) -> ThreadingHTTPServer:
    """Open a server of the live page that only this machine can reach.

    Args:
        workspace: the run.
        recipe: its settings.
        port: TCP port; 0: any free one, see `server_port` of the result.

    Raises:
        UserError: the port is taken.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, _Page(workspace, recipe)))
    except OSError as error:
        raise UserError(
            f"the port cannot be used: {error.strerror}",
            where=f"--port={port}",
            remedy="name another port, or 0 for any",
        ) from None


class _Page:
    """The rendered page of a run, rendered again when files of the workspace change."""

    def __init__(self, workspace: Workspace, recipe: Recipe) -> None:
        self._workspace, self._recipe = workspace, recipe
        self._lock = threading.Lock()
        self._version, self._page = "", b""
        self._rest_until = 0.0

    def version(self) -> str:
        """Hash of the files that the report reads.

        To leave the processor to training, it stays the same for REST times as long as the last rendering took.
        """
        if time.monotonic() < self._rest_until:
            return self._version
        return self._look()

    def _look(self) -> str:
        hasher = hashlib.sha256()
        for pattern in ("*", "*/*.json*", "*/d*/*.parquet"):
            for path in sorted(self._workspace.root.glob(pattern)):
                try:
                    stat = path.stat()
                except FileNotFoundError:  # a stage was published meanwhile
                    continue
                if path.name not in ("report.html", "report.json"):
                    hasher.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return hasher.hexdigest()[:16]

    def content(self) -> bytes:
        """The current page, in UTF-8."""
        with self._lock:
            version = self.version()
            if version != self._version:
                start = time.monotonic()
                self._page = render_report(gather(self._workspace, self._recipe), live=True).encode()
                self._version, now = version, time.monotonic()
                self._rest_until = now + REST * (now - start)
            return self._page


class _Handler(BaseHTTPRequestHandler):
    """Serves the page, its version and the plotting script."""

    server_version, sys_version = "reprise", ""

    def __init__(self, page: _Page, *args: object, **kwargs: object) -> None:
        self._page = page
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer a GET request."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):  # DNS rebinding: another site's name resolves to this machine
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._answer(self._page.content(), "text/html; charset=utf-8", "no-store")
        elif self.path == "/version":
            self._answer(self._page.version().encode(), "text/plain", "no-store")
        elif self.path == f"/{PLOTLY}":
            self._answer(plotly_source().encode(), "text/javascript; charset=utf-8", "max-age=86400")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, body: bytes, kind: str, caching: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", caching)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, as the page polls every two seconds."""


def watch(workspace: Workspace, recipe: Recipe, port: int = 0) -> None:
    """Serve the live page until Ctrl-C; prints its address."""
    with open_watch(workspace, recipe, port) as server:
        print(f"http://{HOST}:{server.server_port}/  (Ctrl-C ends)", flush=True)
        server.serve_forever()
