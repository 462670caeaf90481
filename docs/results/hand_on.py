"""Write the page on handing a model on, from what the commands print for a real run.

    python docs/results/hand_on.py                                    # the page again, from docs/results/data
    python docs/results/hand_on.py RUN TEXT FOLDER                    # run the commands first; FOLDER is new

RUN is a finished run of a model that can be exported, TEXT is held-out text (JSON Lines). A test compares the page with
what this would write.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

from write import MACHINE, replace

HERE = Path(__file__).resolve().parent
DATA, PAGE = HERE / "data" / "hand_on" / "commands.json", HERE / "smollm2-handed-on.md"
INDEX = HERE / "README.md"
START, END = "<!-- written by docs/results/hand_on.py -->", "<!-- end of what hand_on.py writes -->"
COMMANDS = (
    "merge RUN --factor 0.5 --output FOLDER/half",
    "export FOLDER/half --gguf f16 --text TEXT --output FOLDER/half-f16",
    "export FOLDER/half --gguf q8_0 --text TEXT --output FOLDER/half-q8_0",
    "export FOLDER/half --gguf q4_0 --text TEXT --output FOLDER/half-q4_0",
    "export RUN --output FOLDER/card",
)


class Command(TypedDict):
    """A command and what became of it."""

    command: str
    seconds: float
    printed: list[str]
    megabytes: dict[str, float]
    """File of its folder above 1 MB -> its size, in 10^6 bytes."""


class Recorded(TypedDict):
    """What is kept."""

    commit: str
    date: str
    commands: list[Command]


def collect(run: str, text: str, folder: Path) -> None:
    """Run the commands and keep what they print, without the names of this machine's folders."""
    folder.mkdir(parents=True)
    names = {"RUN": run, "TEXT": text, "FOLDER": str(folder)}
    head = ["git", "rev-parse", "--short", "HEAD"]
    recorded: Recorded = {
        "commit": subprocess.run(head, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commands": [],
    }
    for command in COMMANDS:
        words = [re.sub("RUN|TEXT|FOLDER", lambda found: names[found[0]], word) for word in command.split()]
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "reprise", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command}: code {done.returncode}\n{done.stdout}{done.stderr}")
        printed = done.stdout + done.stderr
        for name, path in sorted(names.items(), key=lambda item: -len(item[1])):
            printed = printed.replace(path, name)
        target = Path(words[words.index("--output") + 1])
        sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(target.iterdir()) if path.is_file()}
        recorded["commands"].append(
            {
                "command": command,
                "seconds": round(time.monotonic() - begun, 1),
                "printed": [line for line in printed.splitlines() if line.strip() and "%|" not in line],  # no progress
                "megabytes": {name: round(size, 1) for name, size in sizes.items() if size > 1},
            }
        )
    DATA.parent.mkdir(parents=True, exist_ok=True)
    DATA.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load() -> Recorded:
    """What is kept."""
    recorded: Recorded = json.loads(DATA.read_text(encoding="utf-8"))
    return recorded


def results(recorded: Recorded) -> str:
    """The part of the page that is written from the run."""
    lines = [f"Commit {recorded['commit']}, {recorded['date']}, {MACHINE}."]
    for one in recorded["commands"]:
        sizes = ", ".join(f"{name} {size:,.1f} MB" for name, size in one["megabytes"].items())
        lines += ["", f"`reprise {one['command']}`: {one['seconds']:.0f} s; {sizes}", ""]
        lines += [f"    {line}" for line in one["printed"]]
    return "\n".join(lines) + "\n"


def index(recorded: Recorded) -> str:
    """The line of the index: the check of each file."""
    checks = [line for one in recorded["commands"] for line in one["printed"] if line.startswith("checked on")]
    names = [
        re.findall(r"--gguf (\S+)", one["command"])[0] for one in recorded["commands"] if "--gguf" in one["command"]
    ]
    answer = "; ".join(f"{name}: {line.partition('text: ')[2]}" for name, line in zip(names, checks, strict=True))
    return (
        "| question | answer | page and command | commit |\n|---|---|---|---|\n"
        f"| Does an exported file compute what the model computed? | {answer} | [page]({PAGE.name}), "
        f"`reprise export MODEL --gguf q8_0` | {recorded['commit']} |\n"
    )


def files(recorded: Recorded) -> dict[Path, str]:
    """File -> its content."""
    parts = {PAGE: results(recorded), INDEX: index(recorded)}
    return {path: replace(path.read_text(encoding="utf-8"), part, START, END) for path, part in parts.items()}


def main() -> None:
    """Run the commands, if they are named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="recipe or folder of a finished run")
    parser.add_argument("text", nargs="?", help="held-out text for the checks")
    parser.add_argument("folder", nargs="?", type=Path, help="folder to write, which must not exist")
    chosen = parser.parse_args()
    if chosen.run is not None:
        collect(chosen.run, chosen.text, chosen.folder)
    for path, text in files(load()).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parents[1]))


if __name__ == "__main__":
    main()
