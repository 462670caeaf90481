"""Read and write objects in an object store: `s3://` and `gs://`, by pyarrow.

Credentials are found where the stores' own tools find them: in environment variables (`AWS_ACCESS_KEY_ID`,
`GOOGLE_APPLICATION_CREDENTIALS`), in a profile or in the metadata of a rented machine; never in a recipe.
`AWS_ENDPOINT_URL` and `STORAGE_EMULATOR_HOST` name servers other than Amazon's and Google's.
"""

import datetime
import logging
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import xxhash

from reprise.storage import FileChecksum

T = TypeVar("T")

log = logging.getLogger(__name__)

SCHEMES = ("s3", "gs")
ATTEMPTS = 4
"""How often an operation is tried; the library's own repetitions within a few seconds count as one."""
FIRST_PAUSE_S = 2.0
"""Pause after the first failure; it doubles with each further one."""
REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
RETRY = datetime.timedelta(seconds=30)
"""How long the client of Google Cloud Storage repeats a failing request."""
BLOCK_BYTES = 8 << 20


class StoreError(Exception):
    """The store could not be reached, refused access or failed, after all attempts."""


class NoObjectError(StoreError):
    """There is no object of this name."""


class DamagedError(Exception):
    """The content of an object or of a file differs from its checksum."""


class LeftError(Exception):
    """The caller asked to stop."""


class ObjectStore:
    """The objects whose names begin with a URL. Thread-safe; connects at the first operation."""

    def __init__(self, url: str, *, attempts: int = ATTEMPTS) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self.failures = 0
        """Attempts that failed so far."""
        self.leave = False
        """Set by another thread: the next block of an upload or download raises LeftError."""
        self.moved_at = time.monotonic()
        """When the last block was sent or received, on the monotonic clock."""
        self._opened: tuple[Any, str] | None = None

    def read(self, name: str) -> bytes:
        """The content of a small object.

        Raises:
            NoObjectError: there is none of this name.
            StoreError: the store failed.
        """
        return self._try(name, lambda system, path: self._read_all(system, path))

    def _read_all(self, system: Any, path: str) -> bytes:
        with system.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an object: readers see the old or the new content.

        Raises:
            StoreError: the store failed.
        """

        def put(system: Any, path: str) -> None:
            with system.open_output_stream(path) as stream:
                stream.write(data)

        self._try(name, put)

    def upload(self, name: str, file: BinaryIO, expected: FileChecksum) -> None:
        """Create or replace an object from a file, and compare what was read with the file's checksum.

        Raises:
            DamagedError: the file differs from its checksum; the object is not usable.
            StoreError: the store failed.
        """

        def put(system: Any, path: str) -> None:
            file.seek(0)
            hasher, size = xxhash.xxh3_128(), 0
            with system.open_output_stream(path) as stream:
                for block in self._blocks(file):
                    hasher.update(block)
                    size += len(block)
                    stream.write(block)
            _compare(hasher, size, expected, f"{getattr(file, 'name', name)}")

        self._try(name, put)

    def download(self, name: str, path: Path, expected: FileChecksum) -> None:
        """Write an object's content to a file, and compare it with a checksum; creates the folder.

        Raises:
            DamagedError: the content differs.
            NoObjectError: there is no object of this name.
            StoreError: the store failed.
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        failed: OSError | None = None

        def get(system: Any, source: str) -> tuple[Any, int]:
            nonlocal failed
            hasher, size = xxhash.xxh3_128(), 0
            with system.open_input_stream(source) as stream, path.open("wb") as target:
                for block in self._blocks(stream):
                    hasher.update(block)
                    size += len(block)
                    try:
                        target.write(block)
                    except OSError as error:  # a full disk is no fault of the store
                        failed = error
                        raise LeftError from error
                target.flush()
                os.fsync(target.fileno())
            return hasher, size

        try:
            hasher, size = self._try(name, get)
        except LeftError:
            if failed is not None:
                raise failed from None
            raise
        _compare(hasher, size, expected, f"{self.url}/{name}")

    def names(self, folder: str) -> dict[str, int]:
        """Names below a folder, relative to it, with sizes in bytes; empty if there are none.

        Raises:
            StoreError: the store failed, or there is no such bucket.
        """

        def look(system: Any, path: str) -> dict[str, int]:
            from pyarrow.fs import FileSelector, FileType

            entries = system.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
            return {
                entry.path.removeprefix(f"{path}/"): int(entry.size or 0)
                for entry in entries
                if entry.type == FileType.File
            }

        return self._try(folder, look)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one.

        Raises:
            StoreError: the store failed.
        """

        def remove(system: Any, path: str) -> None:
            try:
                system.delete_file(path)
            except FileNotFoundError:
                return

        self._try(name, remove)

    def delete_folder(self, name: str) -> None:
        """Delete all objects below a folder.

        Raises:
            StoreError: the store failed.
        """

        def remove(system: Any, path: str) -> None:
            try:
                system.delete_dir(path)
            except FileNotFoundError:
                return

        self._try(name, remove)

    def _blocks(self, stream: Any) -> Iterator[bytes]:
        while block := stream.read(BLOCK_BYTES):
            if self.leave:
                raise LeftError
            self.moved_at = time.monotonic()
            yield block

    def _try(self, name: str, action: Callable[[Any, str], T]) -> T:
        """Do something with an object, several times if the store fails."""
        pause = FIRST_PAUSE_S
        for attempt in range(1, self.attempts + 1):
            if self.leave:
                raise LeftError
            try:
                if self._opened is None:
                    self._opened = open_file_system(self.url)
                system, root = self._opened
                result = action(system, f"{root}/{name}" if name else root)
            except FileNotFoundError as error:
                raise NoObjectError(f"{self.url}/{name}: {first_line(error)}") from error
            except OSError as error:
                self.failures += 1
                if attempt == self.attempts:
                    raise StoreError(f"{self.url}/{name}: {first_line(error)}") from error
                log.warning("%s/%s: %s; attempt %d of %d", self.url, name, first_line(error), attempt, self.attempts)
                time.sleep(pause)
                pause *= 2
            else:
                self.moved_at = time.monotonic()
                return result
        raise AssertionError("at least one attempt")


def _compare(hasher: Any, size: int, expected: FileChecksum, what: str) -> None:
    if (size, hasher.hexdigest()) != (expected["size"], expected["xxh128"]):
        raise DamagedError(f"{what} is damaged: {size:,} bytes whose checksum differs")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_file_system(url: str) -> tuple[Any, str]:
    """The pyarrow file system for a URL `s3://` or `gs://`, and its path there.

    Raises:
        OSError: the region of a bucket cannot be found.
    """
    scheme, _, path = url.partition("://")
    path = path.rstrip("/")
    if scheme == "gs":
        return open_google(), path
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where: dict[str, Any] = {}
    if endpoint:
        server = urllib.parse.urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        where = {"endpoint_override": server.netloc, "scheme": server.scheme}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or not endpoint:
        where["region"] = region or resolve_s3_region(path.split("/")[0])
    system = S3FileSystem(
        allow_delayed_open=True,  # one request for a small object instead of three
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),  # `_try` repeats, and counts
        **where,
    )
    return system, path


def open_google() -> Any:
    """pyarrow's file system for Google Cloud Storage, anonymous if this machine has no credentials."""
    from pyarrow.fs import GcsFileSystem

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        server = urllib.parse.urlsplit(emulator if "://" in emulator else f"http://{emulator}")
        where: dict[str, Any] = {"endpoint_override": server.netloc, "scheme": server.scheme, "anonymous": True}
    else:
        where = {"anonymous": not _has_google_credentials()}
    return GcsFileSystem(retry_time_limit=RETRY, **where)


def _has_google_credentials() -> bool:
    """Whether the environment, gcloud or a Google machine provides credentials: elsewhere the search takes minutes."""
    gcloud = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    product = Path("/sys/class/dmi/id/product_name")
    return (
        "GOOGLE_APPLICATION_CREDENTIALS" in os.environ
        or Path(gcloud, "application_default_credentials.json").is_file()
        or (product.is_file() and product.read_text(errors="replace").startswith("Google"))
    )
