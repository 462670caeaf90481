"""Whatever the moment of a SIGKILL, the same command ends with the same bytes and the same report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_kill_before_any_file_event_changes_nothing(tmp_path):
    """In a process of its own: nothing but imports may have happened before it forks."""
    seconds = float(os.environ.get("REPRISE_CRASH_SECONDS", "30"))
    script = str(ROOT / "benchmarks" / "crash_points.py")
    done = subprocess.run(
        [sys.executable, script, "--seconds", str(seconds), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=seconds + 400,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["events"] > 200
    assert facts["points"] >= 3
    assert facts["to_end"] >= 1
    assert facts["different"] == 0, done.stderr[-3000:]
