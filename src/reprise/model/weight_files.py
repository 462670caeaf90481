"""Find the weight files of a model folder and the tensors in them; imports torch only for `.bin` files.

If there is an index, it decides: `model.safetensors.index.json`, else `model.safetensors`, else the same for
`pytorch_model.bin`. Anything else in the folder, such as shards of an older save, is ignored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reprise.errors import UserError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"

_LFS_POINTER = b"version https://git-lfs"
_SHOWN_NAMES = 5


class StoredWeights:
    """The tensors of a model folder, by name; each is read only when it is used."""

    def __init__(self, folder: Path, files: Mapping[str, Path], is_safetensors: bool) -> None:
        self.folder, self.is_safetensors = folder, is_safetensors
        self.files = dict(files)
        """Name of a tensor -> the file that contains it."""

    def open(self) -> dict[str, Any]:
        """Name -> lazy tensor, read by indexing (`[:]` for all of it), with `get_shape` and `get_dtype`."""
        return {name: entry for path in self.paths for name, entry in self._open_file(path)}

    def read(self, name: str) -> Any:
        """One tensor, as returned by `open`; its file is closed when nothing refers to it any more."""
        path = self.files[name]
        if not self.is_safetensors:
            return _read_bin(path)[name]
        handle: Any = safe_open(path, "pt")
        return handle.get_slice(name)

    @property
    def paths(self) -> list[Path]:
        """The files in use."""
        return sorted(set(self.files.values()))

    def _open_file(self, path: Path) -> Iterator[tuple[str, Any]]:
        names = [name for name, file in self.files.items() if file == path]
        if self.is_safetensors:
            handle: Any = safe_open(path, "pt")
            yield from ((name, handle.get_slice(name)) for name in names)
        else:
            tensors = _read_bin(path)
            yield from ((name, tensors[name]) for name in names)


def open_weights(folder: Path) -> StoredWeights:
    """The tensors in a model folder, by its index if it has one.

    Raises:
        UserError: there are no weights; a file of the index is missing, cut off, a pointer of Git LFS or lacks a
            tensor; or the folder contains an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            "the folder holds an adapter (adapter_config.json), not the weights of a model",
            where=str(folder),
            remedy="merge the adapter into its base model and name the folder of the merged model",
        )
    for name in (SAFETENSORS, BIN):
        if (folder / f"{name}{INDEX}").is_file():
            return _open_index(folder, name)
        if (folder / name).is_file():
            path = folder / name
            return StoredWeights(folder, dict.fromkeys(_names_in(path), path), name == SAFETENSORS)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in {".safetensors", ".bin", ".pth", ".gguf"})
    has = f", only {', '.join(others[:_SHOWN_NAMES])}" if others else ""
    raise UserError(
        f"the model folder has neither {SAFETENSORS} nor {SAFETENSORS}{INDEX}{has}",
        where=str(folder),
        remedy="download the model again, with all its files; name a .gguf file with model.gguf_file",
    )


def _open_index(folder: Path, name: str) -> StoredWeights:
    index = folder / f"{name}{INDEX}"
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        listed = {str(tensor): str(file) for tensor, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the index of the weights cannot be read ({error})", where=str(index), remedy=_DOWNLOAD
        ) from None
    files: dict[str, Path] = {}
    for file in sorted(set(listed.values())):
        path = folder / file
        if not path.is_file():
            raise UserError(f"the index names {file}, which is missing", where=str(index), remedy=_DOWNLOAD)
        names = [tensor for tensor, listed_in in listed.items() if listed_in == file]
        if absent := sorted(set(names) - set(_names_in(path))):
            raise UserError(f"{file} lacks {show_names(absent)}, which the index lists there", where=str(index),
                            remedy=_DOWNLOAD)  # fmt: skip
        files |= dict.fromkeys(names, path)
    return StoredWeights(folder, files, name == SAFETENSORS)


def _names_in(path: Path) -> list[str]:
    """Names of the tensors of a file.

    Raises:
        UserError: the file is truncated, or not a weight file.
    """
    refuse_lfs_pointer(path)
    if path.suffix != ".safetensors":
        return list(_read_bin(path))
    try:
        with safe_open(path, "numpy") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"the weights cannot be read: {error}", where=str(path), remedy=_DOWNLOAD) from None


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse a file that Git LFS has not downloaded.

    Raises:
        UserError: the file is a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(
                "the file is a pointer of Git LFS, not its content", where=str(path), remedy="run `git lfs pull`"
            )


def _read_bin(path: Path) -> dict[str, Any]:
    """Tensors of a file of `torch.save`, memory-mapped if its format allows."""
    import torch

    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written by torch before 1.6
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the weights cannot be read: {first_line}", where=str(path), remedy=_DOWNLOAD) from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError("the file contains something other than named tensors", where=str(path), remedy=_DOWNLOAD)
    return content


_DOWNLOAD = "download the model again, with all its files"


def show_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
