"""The tasks of the installed lm-evaluation-harness, by name, without importing it.

The harness parses all of its 14,000 YAML files to index its tasks, which takes half a minute. Here their names are
read with regular expressions, and cached for each version.
"""

import functools
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from reprise.errors import missing_extra
from reprise.storage import cache_folder, read_checked, write_checked

_FORMAT = 3
_NAME = re.compile(
    r"^[\"']?(task|group|include|dataset_path|dataset_name)[\"']?:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE
)
_LIST = re.compile(
    r"^[\"']?(task|tag)[\"']?:[ \t]*(?:#.*)?\n((?:[ \t]*-[ \t].*\n?|[ \t]+\S.*\n?|[ \t]*\n)+)", re.MULTILINE
)
_ITEM = re.compile(r"^[ \t]*-[ \t]+(?:task:[ \t]*)?[\"']?([\w.+-]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)
_TAG = re.compile(r"^[\"']?tag[\"']?:[ \t]*(\[[^\]]*\]|[^\s\[#]+)", re.MULTILINE)


@dataclass(frozen=True)
class HarnessTask:
    """A task, group or tag of the harness."""

    kind: Literal["task", "group", "tag"]
    file: str
    """Its YAML file, relative to the harness's folder of tasks; empty for a tag."""
    dataset: str = ""
    """Dataset on the Hub, `path` or `path:configuration`; empty if the file names none."""
    children: list[str] = field(default_factory=list)
    """Members of a group or tag."""


def tasks_folder() -> Path:
    """The harness's folder of tasks.

    Raises:
        UserError: the harness is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise missing_extra("lm-eval", "evaluation", "running benchmarks")
    return Path(spec.origin).parent / "tasks"


def harness_version() -> str | None:
    """Version of lm-evaluation-harness, which determines the prompts; None if it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def harness_tasks() -> dict[str, HarnessTask]:
    """Name -> task, group or tag of the installed harness.

    Raises:
        UserError: the harness is not installed.
    """
    root = tasks_folder()
    version = harness_version()
    kept = cache_folder() / "harness" / f"tasks-{_FORMAT}-{version}.json"
    identity = {"folder": str(root), "changed": root.stat().st_mtime_ns}
    known = read_checked(kept)
    if known is not None and known["identity"] == identity:
        return {name: HarnessTask(**entry) for name, entry in json.loads(known["tasks"]).items()}
    tasks = read_tasks(root)
    # Stored as one string: a checksum over so many small values would take seconds.
    described = json.dumps({name: asdict(task) for name, task in tasks.items()})
    write_checked(kept, {"identity": identity, "tasks": described})
    return tasks


def read_tasks(root: Path) -> dict[str, HarnessTask]:
    """Read the YAML files in a folder: name -> task; the first file in order of path wins."""
    tasks: dict[str, HarnessTask] = {}
    tags: dict[str, list[str]] = {}
    included: dict[Path, dict[str, str]] = {}
    for path in sorted(root.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        values = dict(reversed(_NAME.findall(text)))
        name = values.get("group") or values.get("task")
        if not name or name in tasks:
            continue
        merged = _included(path, values.get("include"), included) | values
        dataset = ":".join(
            merged[key] for key in ("dataset_path", "dataset_name") if merged.get(key) not in (None, "null")
        )
        children = [item for kind, items in _LIST.findall(text) if kind == "task" for item in _ITEM.findall(items)]
        kind: Literal["task", "group"] = "group" if "group" in values else "task"
        tasks[name] = HarnessTask(kind, str(path.relative_to(root)), dataset, children if kind == "group" else [])
        if kind == "task":
            for tag in _tags(text) or merged.get("tag", "").split():
                tags.setdefault(tag, []).append(name)
    return tasks | {
        name: HarnessTask("tag", "", "", sorted(names)) for name, names in tags.items() if name not in tasks
    }


def _tags(text: str) -> list[str]:
    listed = [item for kind, items in _LIST.findall(text) if kind == "tag" for item in _ITEM.findall(items)]
    return listed or [tag.strip(" \"'") for match in _TAG.findall(text) for tag in match.strip("[]").split(",")]


def _included(path: Path, name: str | None, known: dict[Path, dict[str, str]]) -> dict[str, str]:
    """Values of the files that a task includes, recursively."""
    if name is None:
        return {}
    target = path.parent / name
    if target not in known:
        known[target] = {}  # stops files that include themselves
        if target.is_file():
            text = target.read_text(encoding="utf-8", errors="replace")
            values = dict(reversed(_NAME.findall(text)))
            known[target] = _included(target, values.get("include"), known) | values | {"tag": " ".join(_tags(text))}
    return known[target]


def leaf_tasks(name: str, tasks: dict[str, HarnessTask]) -> list[str]:
    """Names of the tasks of a group or tag, each once; for a task, its own name."""
    leaves: dict[str, None] = {}
    seen: set[str] = set()
    queue = [name]
    while queue:
        current = queue.pop()
        task = tasks.get(current)
        if task is None or current in seen:
            continue
        seen.add(current)
        if task.kind == "task":
            leaves[current] = None
        queue += task.children
    return sorted(leaves)


def folders(name: str, tasks: dict[str, HarnessTask]) -> tuple[str, ...]:
    """Folders of the harness with the files of a task, and of the members of a group."""
    files: set[str] = set()
    seen: set[str] = set()
    queue = [name]
    while queue:
        current = queue.pop()
        if current in seen or current not in tasks:
            continue
        seen.add(current)
        task = tasks[current]
        if task.file:
            folder = Path(task.file).parent
            # Members of a group may be defined inline, or by tags in files beside it.
            files.add(folder.parts[0] if task.kind == "group" and folder.parts else str(folder))
        queue += task.children
    return _outermost(files)


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Paths without those that are inside another one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return tuple(kept)
