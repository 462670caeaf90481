"""WARC to documents: the stage `read` against datatrove's reader, with the same extractor, in turns.

    apt-get install debian-handbook
    python benchmarks/warc.py --pages /usr/share/doc/debian-handbook/html --datatrove PYTHON [--sample 200] [--rounds 2]

PYTHON is an interpreter that has datatrove, warcio, faust-cchardet, python-magic and our version of trafilatura. The
pages become two WARC files, so that both use two processes. Start of the interpreters is part of both. Processor
seconds, of all processes, are shown beside the time of the clock, which other work on the machine disturbs. Ends with
one line of JSON: tool -> documents, seconds, processor seconds (the best round), documents per processor second.
"""

import argparse
import contextlib
import ctypes
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
"""Of Linux: processes whose parent ends become children of this one."""

_OURS = """
import sys
from pathlib import Path
from reprise.documents.read.stage import run
from reprise.recipe.documents import Input
from reprise.workspace import Work
folder, output = map(Path, sys.argv[1:])
output.mkdir()
work = Work(output=output, inputs={}, cache=output / "cache")
entry = Input(path=str(folder), html="trafilatura", constants={"source": "web", "lang": "en"})
run(work, inputs=[entry], engine="native", valid_share=0.0, max_reject_share=1.0)
print(work.counts["documents_out"])
"""
_DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter
folder, output = sys.argv[1:]
if __name__ == "__main__":
    steps = [WarcReader(folder, glob_pattern="*.warc.gz"), Trafilatura(timeout=60), JsonlWriter(output + "/documents")]
    LocalPipelineExecutor(pipeline=steps, tasks=2, workers=2, logging_dir=output + "/logs").run()
    import glob, gzip
    print(sum(sum(1 for _ in gzip.open(path)) for path in glob.glob(output + "/documents/*.jsonl.gz")))
"""


def record(number: int, body: bytes) -> bytes:
    """A response with one page, compressed by itself as crawlers do."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    content = head + body
    lines = ["WARC/1.0", "WARC-Type: response", f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>",
             f"WARC-Target-URI: http://localhost/{number}", "WARC-Date: 2024-01-01T00:00:00Z",
             "WARC-Identified-Payload-Type: text/html",
             "Content-Type: application/http; msgtype=response", f"Content-Length: {len(content)}", "", ""]  # fmt: skip
    return gzip.compress("\r\n".join(lines).encode() + content + b"\r\n\r\n")


def measure(command: list[str]) -> dict[str, float]:
    """Documents, seconds of the clock and of the processors of a command and what it starts."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0):  # processes that their parents did not wait for, whose time would be missing
            pass
    after, seconds = os.times(), time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"documents": int(done.stdout.split()[-1]), "seconds": round(seconds, 2), "cpu_seconds": round(spent, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--datatrove", required=True)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    pages = sorted(chosen.pages.glob("**/*.html"))
    pages = random.Random(0).sample(pages, min(len(pages), chosen.sample))
    results: dict[str, dict[str, float]] = {}
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "warc").mkdir()
        for part in (0, 1):
            data = b"".join(
                record(number, page.read_bytes()) for number, page in enumerate(pages) if number % 2 == part
            )
            (root / "warc" / f"{part}.warc.gz").write_bytes(data)
        for name, code in (("ours", _OURS), ("datatrove", _DATATROVE)):
            (root / f"run_{name}.py").write_text(code)
        for turn in range(chosen.rounds):
            for name, python in (("ours", sys.executable), ("datatrove", chosen.datatrove)):
                output = root / f"{name}-{turn}"
                one = measure([python, str(root / f"run_{name}.py"), str(root / "warc"), str(output)])
                print(f"{name}, round {turn + 1}: {one}", flush=True)
                best = results.get(name)
                results[name] = one if best is None or one["cpu_seconds"] < best["cpu_seconds"] else best
    for one in results.values():
        one["documents_per_cpu_second"] = round(one["documents"] / one["cpu_seconds"], 2)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
