"""Run page parsers in a process with limits: a damaged file may hang, exhaust the memory or crash its library."""

import contextlib
import resource
from types import TracebackType

from reprise.documents.read.fields import UnreadableError
from reprise.documents.read.pages import NoPageError, parse
from reprise.documents.workers import Worker, WorkerDiedError
from reprise.errors import UserError


class PageParser:
    """A parser process, started with the first page and again after a page that ended it. A context manager."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def parse(self, format: str, html: str, data: bytes, *, seconds: float, memory_gb: float) -> list[str]:
        """Convert a file to texts (see `pages.parse`).

        Args:
            format: format of the file.
            html: how web pages are read.
            data: content of the file.
            seconds: time limit for this file.
            memory_gb: memory limit for this file in GB, in addition to what the process uses at its start.

        Raises:
            UnreadableError: the file cannot be converted; the message is the reason.
            UserError: the library for the format is not installed.
        """
        if self._worker is None:
            self._worker = Worker()
            self._worker.submit(_import_libraries, None)
            self._worker.result()
        try:
            self._worker.submit(_parse_within, (format, html, data, int(memory_gb * 1e9)))
            if not self._worker.answers.poll(seconds):
                raise UnreadableError("parser_took_too_long")
            texts, reason = self._worker.result()
        except WorkerDiedError:
            self.close()
            raise UnreadableError("parser_crashed") from None
        except BaseException:
            self.close()
            raise
        if reason is not None:
            raise UnreadableError(reason)
        return list(texts)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def __enter__(self) -> "PageParser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _import_libraries(_: None) -> None:
    """Import libraries before the time of the first page is measured."""
    with contextlib.suppress(ImportError):
        import resiliparse.extract.html2text  # noqa: F401


_limit: list[int] = []


def _parse_within(request: tuple[str, str, bytes, int]) -> tuple[list[str], str | None]:
    """Returns (texts, reason if there are none). Runs in the parser process."""
    file_format, html, data, memory_bytes = request
    if not _limit:
        _limit.append(memory_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + memory_bytes, resource.RLIM_INFINITY))
    try:
        return parse(file_format, html, data), None
    except NoPageError as error:
        return [], str(error)
    except MemoryError:
        return [], "parser_out_of_memory"
    except UserError:
        raise
    except Exception:  # an unexpected error inside a library
        return [], f"damaged_{file_format}"


def _virtual_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (no path of the user)
        return int(file.read().split()[0]) * resource.getpagesize()
