"""Reads a checkpoint from an untrusted source: nothing in it can run code.

torch.distributed.checkpoint unpickles `.metadata`, and values that are not tensors, without restriction. Here only the
classes that describe tensors, and plain values, are allowed.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta

from reprise.errors import UserError

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "_MEM_FORMAT_ENCODING",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
    "pathlib._local": {"PosixPath", "PurePosixPath", "Path"},
    "collections": {"OrderedDict"},
}
"""Module -> names that `.metadata` may use from it, besides torch's dtypes."""


def _enum_member(kind: Any, name: str) -> Any:
    """In place of `getattr`, by which early versions of Python 3.11 (Debian 12 has 3.11.2) pickle members of enums."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError("it names builtins.getattr")
    return _MEM_FORMAT_ENCODING[name]


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class CheckpointReader(FileSystemReader):
    """Reads the tensors of a checkpoint; its metadata may contain only descriptions of tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's own description of its tensors.

        Raises:
            UserError: it contains anything but descriptions of tensors, or names files outside the folder.
        """
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            with path.open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError(f"it is a {type(metadata).__name__}")
            for entry in (metadata.storage_data or {}).values():
                if Path(entry.relative_path).name != entry.relative_path:
                    raise pickle.UnpicklingError(f"it names the file {entry.relative_path}")
        except Exception as error:  # a damaged pickle raises almost anything
            raise UserError(
                f"the checkpoint's .metadata does not describe tensors and is not read: {error}",
                where=str(path),
                remedy="use a checkpoint that Reprise wrote; this file may run foreign code in other programs",
            ) from None
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainValuesPlanner(DefaultLoadPlanner):
    """Loads tensors and plain values such as numbers and lists, no other objects."""

    def load_bytes(self, read_item: Any, value: Any) -> None:
        """Read one value that is not a tensor."""
        content = torch.load(value, weights_only=True)
        value.seek(0)
        value.truncate()
        torch.save(content, value)
        value.seek(0)
        super().load_bytes(read_item, value)
