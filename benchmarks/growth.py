"""Time and memory of the document stages as the text grows: 1x, 4x, 16x.

    python benchmarks/growth.py --corpus CORPUS [--megabytes 4] [--lang en] [--stages clean deduplicate]

Every stage runs in a process of its own, on copies of the same documents in files of 8 MB; before deduplication each
copy gets letters (in Chinese, characters) of its own, so that no two copies are alike. Memory is the largest sum of the
proportional set sizes of all processes of the stage, processor time the sum over them, both read ten times a second; it
needs Linux. Ends with one line of JSON: stage -> [[seconds, processor seconds, MB] at 1x, 4x, 16x].
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from documents import read_rows

FACTORS = (1, 4, 16)
STAGES = ("read", "clean", "deduplicate", "decontaminate", "label")
FILE_BYTES = 8 << 20
SOURCES = ["book", "code", "encyclopedia", "math", "paper", "qa_forum", "web"]


def shift(text: str, by: int) -> str:
    """Other words of the same lengths: each letter, or Chinese character, becomes a later one."""

    def move(char: str) -> str:
        for first, count in (("a", 26), ("A", 26), ("\u4e00", 20_000)):
            place = ord(char) - ord(first)
            if 0 <= place < count:
                return chr(ord(first) + (place + by) % count)
        return char

    return text.translate({ord(char): move(char) for char in set(text)}) if by else text


def write_files(folder: Path, rows: list[dict[str, Any]], factor: int, shifted: bool) -> None:
    folder.mkdir(parents=True)
    number, taken, file = 0, 0, (folder / "0000.jsonl").open("w", encoding="utf-8")
    for copy in range(factor):
        for row in rows:
            text = shift(row["text"], copy) if shifted else row["text"]
            line = json.dumps({**row, "text": text, "id": f"{row['id']}-{copy}"}, ensure_ascii=False) + "\n"
            taken += len(line)
            if taken > FILE_BYTES:
                file.close()
                number, taken = number + 1, 0
                file = (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8")
            file.write(line)
    file.close()


def write_table(folder: Path, rows: list[dict[str, Any]], factor: int) -> None:
    """The copies as the stage of this folder would leave them."""
    from reprise.documents.table import DOCUMENTS, TableWriter

    with TableWriter(folder / DOCUMENTS) as writer:
        for copy in range(factor):
            for start in range(0, len(rows), 1000):
                writer.write(
                    [
                        {**row, "text": shift(row["text"], copy), "id": f"{row['id']}-{copy}"}
                        for row in rows[start : start + 1000]
                    ]
                )


def run_stage(stage: str, root: Path) -> None:
    """In a process of its own."""
    from reprise.documents.clean import stage as clean
    from reprise.documents.decontaminate import stage as decontaminate
    from reprise.documents.deduplicate import stage as deduplicate
    from reprise.documents.label import stage as topics
    from reprise.documents.read import stage as read
    from reprise.recipe.documents import Clean, Decontaminate, Deduplicate, Input, Topics
    from reprise.workspace import Work

    order = list(STAGES)
    before = order[order.index(stage) - 1] if stage != "read" else ""
    work = Work(output=root / stage, inputs={before: root / before}, cache=root / "cache")
    work.output.mkdir()
    if stage == "read":
        given = [Input(path=str(root / "in"))]
        read.run(work, inputs=given, engine="native", valid_share=0.02, max_reject_share=0.01)
    elif stage == "clean":
        # Letters that were changed leave no stop words.
        settings = Clean(heuristics={lang: {"min_stop_words": 0} for lang in ("en", "zh")})
        clean.run(work, clean=settings, engine="native")
    elif stage == "deduplicate":
        deduplicate.run(work, deduplicate=Deduplicate(), engine="native")
    elif stage == "decontaminate":
        extra = sorted(map(str, (root / "questions").glob("*.jsonl")))
        checks = Decontaminate(extra_benchmarks=extra)
        decontaminate.run(work, decontaminate=checks, benchmarks=[], data=None, engine="native")
    else:
        demo = [Input(path="package:reprise/demo")]
        topics.run(work, topics=Topics(labelled=demo), split_sources=SOURCES, seed=0, engine="native")


def measure(command: list[str]) -> tuple[float, float, float]:
    """(seconds, processor seconds, MB) of a command and all that it starts."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    peak, used = 0.0, dict[int, float]()
    while process.poll() is None:
        members = family(process.pid)
        peak = max(peak, sum(map(proportional_mb, members)))
        used |= {pid: seconds for pid in members if (seconds := processor_seconds(pid))}
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, sum(used.values()), peak


def family(pid: int) -> list[int]:
    """The process and all below it."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += map(int, task.read_text().split())
            except OSError:
                continue
    return members


def proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--lang", default="en", choices=["en", "zh"])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument(
        "--questions", type=Path, nargs="*", default=[], help="benchmark files to decontaminate against"
    )
    parser.add_argument("--factors", type=int, nargs="+", default=list(FACTORS))
    parser.add_argument("--alone", action="store_true", help="write the table before a single stage, run only that one")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        run_stage(chosen.run[0], Path(chosen.run[1]))
        return
    rows = read_rows(chosen.corpus, chosen.lang, int(chosen.megabytes * 1e6))
    results: dict[str, list[list[float]]] = {stage: [] for stage in chosen.stages}
    last = max(map(STAGES.index, chosen.stages))
    for factor in chosen.factors:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            if chosen.alone:
                write_table(root / STAGES[last - 1], rows, factor)
            else:
                write_files(root / "in", rows, factor, shifted="deduplicate" in chosen.stages)
            for number, path in enumerate(chosen.questions):
                (root / "questions").mkdir(exist_ok=True)
                (root / "questions" / f"{number}.jsonl").write_bytes(path.read_bytes())
            for stage in STAGES[last if chosen.alone else 0 : last + 1]:
                seconds, used, peak = measure([sys.executable, __file__, "--run", stage, str(root)])
                if stage in results:
                    results[stage].append([round(seconds, 2), round(used, 2), round(peak)])
                    print(
                        f"{factor}x {len(rows) * factor} documents {stage}: {seconds:.1f} s, {used:.1f} s of the"
                        f" processors, {peak:.0f} MB",
                        flush=True,
                    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
