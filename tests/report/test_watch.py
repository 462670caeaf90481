import http.client
import threading
from collections.abc import Callable, Iterator

import pytest

from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.report.watch import open_watch
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]


@pytest.fixture
def port(finished: Run) -> Iterator[int]:
    server = open_watch(*finished)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_listens_on_this_machine_alone(finished: Run) -> None:
    with open_watch(*finished) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_it_serves_the_page_the_script_and_nothing_else(port: int) -> None:
    status, page = get(port, "/")
    assert status == 200
    assert "data-live" in page
    assert len(page) < 1_000_000  # the plotting script is fetched once, by its own name
    assert get(port, "/plotly.min.js")[1].startswith("/**\n* plotly.js")
    for path in ("/recipe.yaml", "/../recipe.yaml", "/read/manifest.json", "//etc/passwd", "/?x"):
        assert get(port, path)[0] == 404, path
    assert get(port, "/", method="POST")[0] == 501


def test_a_foreign_host_name_gets_nothing(port: int) -> None:
    assert get(port, "/", host="evil.example")[0] == 403
    assert get(port, "/", host=f"localhost:{port}")[0] == 200


def test_the_version_changes_with_the_run(finished: Run, port: int) -> None:
    before = get(port, "/version")
    assert get(port, "/version") == before
    with (finished[0].folder("train-2") / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('{"kind": "checkpoint", "step": 1, "tokens": 1, "seconds": 1}\n')
    assert get(port, "/version") != before


def test_a_port_that_is_taken_is_named(finished: Run, port: int) -> None:
    with pytest.raises(UserError, match=f"--port={port}"):
        open_watch(*finished, port)


def test_the_page_of_a_run_at_work(run_until: Callable[[str], Run]) -> None:
    workspace, recipe = run_until("clean")
    with open_watch(workspace, recipe) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "Nothing is measured yet" in get(server.server_port, "/")[1]
        server.shutdown()
