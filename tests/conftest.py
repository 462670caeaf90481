"""For all tests: one thread to a process, and no verdict on how fast a shared machine is."""

import os
from collections import Counter

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
