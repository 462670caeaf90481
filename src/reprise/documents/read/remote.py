"""Access files behind URLs: `hf://` by huggingface_hub, `gs://` by pyarrow, `s3://` and all others by Daft.

Daft always connects to huggingface.co and storage.googleapis.com; the other two support a mirror of the Hub
(HF_ENDPOINT) and a server instead of Google's (STORAGE_EMULATOR_HOST). Imports without Daft.
"""

import glob
import io
import os
import re
from typing import Any, BinaryIO, cast

from reprise.object_store import open_google

_BUFFER = 1 << 20


def is_remote(path: str) -> bool:
    """Whether the path is a URL."""
    return "://" in path


def list_files(url: str, *, is_folder: bool) -> list[tuple[str, int]]:
    """List URLs with sizes in bytes: of all files below a folder, or of those that a glob or the URL itself matches.

    Raises:
        Exception: any error of the library, if the store cannot be reached or refuses access.
    """
    if (opened := _file_system(url)) is None:
        from daft.daft import io_glob  # a data frame would start a runner for this process

        entries = io_glob(f"{url.rstrip('/')}/**" if is_folder else url)
        return [(str(entry["path"]), int(entry["size"] or 0)) for entry in entries if entry["type"] == "File"]
    system, path = opened
    scheme = url.split("://")[0]
    if is_folder or glob.has_magic(path):
        # `find` and `glob` return an empty list if a store cannot be reached.
        system.ls(path if is_folder else re.split(r"[*?[]", path, maxsplit=1)[0].rpartition("/")[0])
    if is_folder:
        inside = system.find(path, detail=True)
    elif glob.has_magic(path):
        inside = system.glob(path, detail=True)
    else:
        inside = {path: system.info(path)}
    return [
        (f"{scheme}://{name}", int(entry["size"] or 0)) for name, entry in inside.items() if entry["type"] == "file"
    ]


def open_url(url: str) -> BinaryIO:
    """Open a file as a seekable stream of its stored bytes.

    Raises:
        Exception: any error of the library.
    """
    if (opened := _file_system(url)) is None:
        import daft

        return cast(BinaryIO, daft.open_file(url, "rb"))
    system, path = opened
    return cast(BinaryIO, io.BufferedReader(system.open(path, "rb"), _BUFFER))


def _file_system(url: str) -> tuple[Any, str] | None:
    """The fsspec file system for the URL, and its path there; None if Daft must be used."""
    scheme, _, path = url.partition("://")
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT")), path.rstrip("/")
    if scheme == "gs":
        from fsspec.implementations.arrow import ArrowFSWrapper

        return ArrowFSWrapper(open_google()), path.rstrip("/")
    return None
