"""Whatever the moment of a SIGKILL, the same command ends with the same bytes and the same report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_kills_before_random_file_events_change_nothing(tmp_path):
    """In a process of its own: nothing but imports may have happened before it forks."""
    seconds = os.environ.get("REPRISE_CRASH_SECONDS", "60")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "crash_points.py"), "--seconds", seconds, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=880,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["kills"] >= 3
    assert facts["different"] == 0
