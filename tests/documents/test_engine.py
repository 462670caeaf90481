"""What happens to errors in workers."""

import errno

import pytest

from reprise.documents.engine import run_pieces


def fail(code, piece):
    raise OSError(code, "no luck", "some/file")


@pytest.mark.parametrize("smallest", [0, 1 << 30])
def test_a_full_disk_in_a_worker_stays_what_it_is(monkeypatch, smallest):
    import functools

    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", smallest)
    with pytest.raises(OSError, match="no luck") as error:
        run_pieces(functools.partial(fail, errno.ENOSPC), [1, 2], engine="native", what="x", num_bytes=1)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "some/file")
