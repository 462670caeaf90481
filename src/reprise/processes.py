"""The processes that torchrun or Slurm started for one command: shared results and divided work.

Imports torch only if there are several.
"""

import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Tool(Protocol):
    """What a helper needs for its pieces, such as a model. Pickled without its open resources."""

    @property
    def key(self) -> str:
        """Tools with equal keys are the same: a helper keeps an open one."""

    def close(self) -> None:
        """Free its memory."""


class Remote(NamedTuple):
    """How a helper works on a piece."""

    tool: Tool
    function: Callable[[Any, Any], Any]
    """Called with the tool and a piece; a module-level function or a partial of one, so that it can be pickled."""


class _End(NamedTuple):
    """Message that the first process is done."""

    failed: bool


@dataclass(frozen=True)
class Processes:
    """The processes of a command, as seen by this one; by default it is the only one."""

    rank: int = 0
    world: int = 1
    group: Any = field(default=None, kw_only=True)
    """Process group for messages, on the CPU; None: the default one."""

    @property
    def is_first(self) -> bool:
        """Whether this process does the work that is done only once."""
        return self.rank == 0

    def same(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.world == 1:
            return value
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self.group, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank."""
        values = [value] * self.world
        if self.world > 1:
            import torch.distributed

            torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Block until every process has called this."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier(group=self.group)

    def first(self, action: Callable[[], T]) -> T | None:
        """Let the first process run the action while the others help (`spread`) and get None.

        If it fails, the others exit silently: the first process reports the error.

        Args:
            action: called in the first process; every process must call this method.
        """
        if self.world == 1:
            return action()
        if not self.is_first:
            self._help()
            return None
        result, failure = None, None
        try:
            result = action()
        except Exception as error:
            failure = error
        self.same(_End(failure is not None))
        if failure is not None:
            raise failure
        return result

    def spread(self, pieces: Sequence[T], own: Callable[[T], R], remote: Remote | None = None) -> list[R]:
        """Process pieces in parallel; results are in order. Only called by the first process, inside `first`.

        Which process works on a piece does not change its result. A killed process only loses the piece that it
        was working on, if the functions save their results.

        Args:
            pieces: work items of similar size; they are pickled.
            own: processes a piece in this process.
            remote: how the others process a piece; None: this process does all the work.
        """
        if self.world == 1 or remote is None or not pieces:
            return [own(piece) for piece in pieces]
        self.same((remote, pieces))
        results: list[Any] = [None] * len(pieces)
        for rank, (values, failure) in enumerate(self._exchange(pieces, own)):
            if failure is not None:
                raise failure
            results[rank :: self.world] = values
        return results

    def own_pieces(self, pieces: Sequence[T]) -> Sequence[T]:
        """The pieces that `spread` gives to this process."""
        return pieces[self.rank :: self.world]

    def _help(self) -> None:
        """Process pieces until the first process is done."""
        held: Tool | None = None
        while not isinstance(message := self.same(None), _End):
            remote, pieces = message
            if held is None or held.key != remote.tool.key:
                if held is not None:
                    held.close()
                held = remote.tool
            self._exchange(pieces, partial(remote.function, held))
        if held is not None:
            held.close()
        if message.failed:
            sys.exit(2)

    def _exchange(self, pieces: Sequence[T], work: Callable[[T], Any]) -> list[tuple[list[Any], Exception | None]]:
        """Process this rank's pieces; returns the results and the failure of each process."""
        values: list[Any] = []
        failure: Exception | None = None
        try:
            values = [work(piece) for piece in self.own_pieces(pieces)]
        except Exception as error:
            failure = error
        return self.gather((values, failure if self.is_first else _portable(failure, self.rank)))


def _portable(error: Exception | None, rank: int) -> Exception | None:
    """Convert an error so that another process can raise it."""
    if error is None:
        return None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError("".join(traceback.format_exception(error)))
    if not isinstance(error, ValueError):
        error.add_note(f"in process {rank}")
    return error
