"""How long a process was ready to run while others had the processor, to extend timeouts on a busy machine."""

from pathlib import Path


def run_delay(pid: int) -> float:
    """Seconds that the first thread of a process waited for a processor; 0 if the system does not report it.

    Linux reports it in `/proc/PID/schedstat`: time on the processor, time waiting for one (both in ns), time slices.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
