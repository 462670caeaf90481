"""Load a recipe from YAML and dotted overrides, with errors that name the setting and the remedy."""

import contextlib
import difflib
import glob
import importlib.resources
import json
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from reprise.errors import UserError
from reprise.recipe.fields import CONFIDENTIAL, holds_credentials
from reprise.recipe.recipe import Recipe
from reprise.yaml_text import format_yaml, read_yaml

Section = TypeVar("Section", bound=BaseModel)


def presets() -> list[str]:
    """Names that `reprise init --preset` accepts."""
    folder = importlib.resources.files("reprise.recipe") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> str:
    """YAML text of a preset."""
    if name not in presets():
        raise UserError(f"there is no preset {name!r}", remedy=f"choose one of: {', '.join(presets())}")
    return (importlib.resources.files("reprise.recipe") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `dotted.name=value` each, with the value in YAML; list entries are counted from 0.

    Raises:
        UserError: the file is missing or not YAML, or contains an invalid setting.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("the recipe does not exist", where=str(path), remedy="write one with `reprise init`") from None
    except IsADirectoryError:
        raise UserError("the recipe is a folder, not a file", where=str(path), remedy="name the YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError("the recipe is not UTF-8", where=f"{path}:{line}", remedy="save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"the recipe cannot be read: {error.strerror}", where=str(path)) from None
    return parse_recipe(text, overrides, where=str(path))


KEPT = "recipe.yaml"
"""Name of the file with the resolved recipe in the folder of a run."""


def open_recipe(path: Path, overrides: Sequence[str] | None) -> Recipe:
    """Load a recipe from a file, or from the folder of a run, which is then the workspace, wherever it is.

    Raises:
        UserError: as `load_recipe`; or the folder is not a run.
    """
    if not path.is_dir():
        return load_recipe(path, overrides or [])
    if not (path / KEPT).exists():
        runs = [run.name for run in runs_in(path)]
        if runs:
            raise UserError(
                f"this folder holds {len(runs)} runs", where=str(path), remedy=f"name one of them: {', '.join(runs)}"
            )
        raise UserError(
            f"this folder is no run: it holds no {KEPT}",
            where=str(path),
            remedy="name a recipe, or the folder of a run",
        )
    return load_recipe(path / KEPT, [*(overrides or []), f"workspace={json.dumps(str(path))}"])


def runs_in(folder: Path) -> list[Path]:
    """Folders of the runs in the folder of a study, by name; empty if it is a run itself, or not a folder."""
    if not folder.is_dir() or (folder / KEPT).exists():
        return []
    return sorted(path.parent for path in folder.glob(f"*/{KEPT}"))


KEPT_MARK = "# Relative paths begin at "
"""First words of the file in a run's folder; the rest of the line is the folder of its relative paths, as JSON."""


def format_kept(recipe: Recipe) -> str:
    """The resolved recipe as a run keeps it: YAML, and the folder that its relative paths are relative to."""
    return f"{KEPT_MARK}{json.dumps(os.getcwd())}\n{format_yaml(recipe.model_dump(mode='json'))}"  # noqa: PTH109


def parse_recipe(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """`load_recipe` for text in memory."""
    data = parse_yaml(text, where)
    if text.startswith(KEPT_MARK):
        with contextlib.suppress(ValueError, TypeError):  # the line was edited by hand
            _anchor(data, Path(json.loads(text.partition("\n")[0].removeprefix(KEPT_MARK))))
    for override in overrides:
        apply_override(data, override)
    return check(Recipe, data, where)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse settings without checking them.

    Raises:
        UserError: the text is not YAML, or not a mapping of settings; names the line.
    """
    try:
        data = read_yaml(text)
        _check_size(data, where)
    except RecursionError:
        raise UserError("the recipe is nested too deeply", where=where, remedy="see `reprise init`") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an invalid date or another value that Python rejects
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition(";")[0]
        raise UserError(f"not valid YAML: {problem}", where=f"{where}{line}", remedy="correct this line") from None
    if not isinstance(data, dict):
        raise UserError("this is no list of settings, `name: value`", where=where, remedy="see `reprise init`")
    return data


_PLACES = frozenset(
    {"path", "model", "prompts", "data", "problems", "language_packs", "extra_benchmarks", "benchmarks"}
)
"""Settings whose text, or texts in a list, are paths of files or folders."""


def _anchor(data: Any, base: Path) -> None:
    """Make paths absolute that exist relative to another folder, but not relative to the current one.

    Args:
        data: settings that are not checked yet; changed in place.
        base: the other folder.
    """
    if isinstance(data, list):
        for entry in data:
            _anchor(entry, base)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key in _PLACES and isinstance(value, str):
                data[key] = _anchored(value, base)
            elif key in _PLACES and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                # `mmlu` is the name of a benchmark, even if there is a folder with this name.
                data[key] = [_anchored(one, base) if "/" in one or "." in one else one for one in value]
            else:
                _anchor(value, base)


def _anchored(path: str, base: Path) -> str:
    if "://" in path or path.startswith(("package:", "language:", "~", "/")):
        return path
    return str(base / path) if _leads_somewhere(path, base) and not _leads_somewhere(path, Path()) else path


def _leads_somewhere(path: str, base: Path) -> bool:
    if os.path.exists(base / path):  # noqa: PTH110  pathlib raises on a name that is too long
        return True
    return glob.has_magic(path) and any(glob.iglob(path, root_dir=base))  # noqa: PTH207


MAX_VALUES = 100_000
"""Most values in a recipe; aliases are counted as often as they are used."""


def _check_size(data: Any, where: str) -> None:
    """Refuse a recipe that a few lines of aliases expand to an enormous size."""
    count, queue = 0, [data]
    while queue:
        value = queue.pop()
        count += 1
        if count > MAX_VALUES:
            raise UserError(f"the recipe has more than {MAX_VALUES:,} values", where=where, remedy="use fewer aliases")
        if isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, list):
            queue += value


def check(section: type[Section], data: Any, where: str) -> Section:
    """Check the settings of a section.

    Raises:
        UserError: one line per mistake: the setting, its value, and what would be valid.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise UserError(_explain(section, error), where=where) from None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted name in unchecked settings."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise UserError(
            f"{override!r} is not an override", remedy="write dotted.name=value, such as stages.0.tokens=2M"
        )
    *parents, last = dotted.split(".")
    node: Any = data
    for depth, key in enumerate(parents):
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = _child(node, key, ".".join(parents[: depth + 1]), override)
    try:
        parsed = read_yaml(value) if value else None
    except (yaml.YAMLError, RecursionError, ValueError):
        shown = value if len(value) <= 60 else f"{value[:60]}..."
        raise UserError(
            f"{shown!r} is not valid YAML", where=override[:120], remedy="quote it, or correct the value"
        ) from None
    if isinstance(node, list):
        _child(node, last, dotted, override)
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise UserError(f"{'.'.join(parents)} is a single value and has no `{last}`", where=override)


def _child(node: Any, key: str, dotted: str, override: str) -> Any:
    if isinstance(node, dict):
        return node[key]
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise UserError(
                f"{dotted}: the list has entries 0 to {len(node) - 1}", where=override, remedy="count entries from 0"
            )
        return node[int(key)]
    raise UserError(f"{dotted} is not a section", where=override, remedy="see `reprise init` for the settings")


def _explain(section: type[BaseModel], error: ValidationError) -> str:
    """One line per mistake: the setting, its value, and what would be valid."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            valid = _fields_at(section, item["loc"][:-1])
            close = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else f"valid here: {', '.join(valid)}"
            lines.append(f"unknown setting `{name}` -- {hint}")
        elif item["type"] == "missing":
            lines.append(f"`{name}` is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = item["input"]
            hidden = isinstance(given, dict | list | BaseModel) or not CONFIDENTIAL.isdisjoint(item["loc"])
            hidden = hidden or (isinstance(given, str) and holds_credentials(given))
            shown = "" if hidden else f" = {given!r}"
            lines.append(f"`{name or section.__name__.lower()}`{shown}: {message}")
    return "; ".join(lines) if len(lines) == 1 else f"{len(lines)} mistakes:\n  " + "\n  ".join(lines)


def _fields_at(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the settings at a location in a section."""
    kind: Any = section
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field else None
        else:  # list[X] or dict[str, X]: the part is an index or a key
            kind = (typing.get_args(kind) or (None,))[-1]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next((arg for arg in typing.get_args(kind) if arg is not types.NoneType), None)
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
