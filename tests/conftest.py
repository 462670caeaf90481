"""For all tests: one thread to a process, and no verdict on how fast a shared machine is."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("reprise", deadline=None)
settings.load_profile("reprise")
