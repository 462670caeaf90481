"""What the log says of a machine that others use, and of torchrun's single threads."""

import subprocess
import sys
import time

import pytest

from reprise.recipe.training import Training
from reprise.training.neighbours import CoreTimes, busy_cores, describe_threads, read_core_times


def test_a_busy_neighbour_is_seen_and_own_work_is_not():
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = read_core_times()
        time.sleep(1.0)
        with_neighbour = busy_cores(before, read_core_times())
    finally:
        neighbour.kill()
        neighbour.wait()
    assert with_neighbour > 0.3  # on a machine that others use it gets a part of a core


def test_own_time_is_no_neighbours():
    assert busy_cores(CoreTimes(0.0, 100.0, 10.0), CoreTimes(2.0, 103.0, 13.0)) == 0.0
    assert busy_cores(CoreTimes(0.0, 100.0, 10.0), CoreTimes(2.0, 105.0, 13.0)) == pytest.approx(1.0)
    assert busy_cores(CoreTimes(0.0, 100.0, 10.0), CoreTimes(0.1, 105.0, 10.0)) is None
    assert busy_cores(None, CoreTimes(0.0, 1.0, 1.0)) is None


def test_the_log_says_what_was_chosen_and_the_setting(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert describe_threads(Training(), 2, 2, 1, 0.2) == []
    assert describe_threads(Training(), 2, 2, 1, None) == []
    (line,) = describe_threads(Training(), 4, 4, 1, 1.9)
    assert "1.9 of 4 cores" in line and "4 threads" in line and "GOMP_SPINCOUNT=1000" in line
    assert "training.threads=2" in line
    (line,) = describe_threads(Training(), 1, 4, 1, 1.9)
    assert "1 thread (" in line and "training.threads" not in line
    (line,) = describe_threads(Training(), 1, 8, 2, None)
    assert "2 processes uses 1 of 8 cores (OMP_NUM_THREADS=1" in line and "training.threads=4" in line
    assert describe_threads(Training(threads=1), 1, 8, 2, None) == []
    assert describe_threads(Training(), 4, 8, 2, None) == []
