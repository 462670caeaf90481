"""For all tests: one thread to a process, and no verdict on how fast a shared machine is."""

import os
from collections import Counter

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("reprise", deadline=None)
settings.load_profile("reprise")


def pytest_collection_modifyitems(items):
    """Put the files that take longest first, so that no process is left alone with one at the end."""
    weights = Counter()
    for item in items:
        weights[item.path] += 10 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-weights[item.path], str(item.path)))


@pytest.fixture(scope="module")
def bucket():
    """An object store on this machine, for the tests of a module."""
    from tests.buckets import open_bucket

    with open_bucket() as opened:
        yield opened


@pytest.fixture
def healthy_bucket(bucket, monkeypatch):
    """The same, tried again at once after a failure, and without faults afterwards."""
    from reprise import object_store

    monkeypatch.setattr(object_store, "FIRST_PAUSE_S", 0.01)
    yield bucket
    bucket.faults()
