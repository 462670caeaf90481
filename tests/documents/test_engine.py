"""What happens to errors in workers."""

import errno

import pytest

from reprise.documents.engine import run_pieces
from reprise.errors import UserError


def fail(code, piece):
    raise OSError(code, "no luck", "some/file")


@pytest.mark.parametrize("smallest", [0, 1 << 30])
def test_a_full_disk_in_a_worker_stays_what_it_is(monkeypatch, smallest):
    import functools

    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", smallest)
    with pytest.raises(OSError, match="no luck") as error:
        run_pieces(functools.partial(fail, errno.ENOSPC), [1, 2], engine="native", what="x", num_bytes=1)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "some/file")


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError, ValueError], ids=lambda kind: kind.__name__)
def test_a_ray_cluster_that_cannot_be_used_is_a_message(monkeypatch, kind):
    daft = pytest.importorskip("daft", reason="the extra `documents` is not installed")

    def refuse(*_args, **_settings):
        raise kind("Failed to connect to Ray cluster at node-0:6379")

    monkeypatch.setattr(daft, "set_runner_ray", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "node-0:6379")
    with pytest.raises(UserError, match="cannot be used") as error:
        run_pieces(str, [1, 2], engine="ray", what="x", num_bytes=1)
    assert "RAY_ADDRESS=node-0:6379" in str(error.value)
