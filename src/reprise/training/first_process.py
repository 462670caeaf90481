"""What one process does for all of them. Imports torch only where there are several."""

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def first_does(action: Callable[[], T], *, is_first: bool, world: int) -> T | None:
    """Let the first process act while the others wait; they get None.

    Where it fails the others exit silently: the first process reports the error.

    Args:
        action: called in the first process.
        is_first: whether this process is the first.
        world: number of processes; every one of them must call.
    """
    result, failure = None, None
    if is_first:
        try:
            result = action()
        except Exception as error:
            failure = error
    if world > 1:
        import torch.distributed

        failed = [failure is not None]
        torch.distributed.broadcast_object_list(failed, src=0, device=torch.device("cpu"))
        if failed[0] and not is_first:
            sys.exit(2)
    if failure is not None:
        raise failure
    return result
