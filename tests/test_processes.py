"""Work that the first of several processes spreads over all of them."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch.distributed as dist

from reprise.errors import UserError
from reprise.processes import Processes, Remote


class Doubler:
    """A tool that notes on which process it was opened and closed."""

    def __init__(self, folder: Path, key: str = "doubler") -> None:
        self.folder, self.key = folder, key

    def close(self) -> None:
        with (self.folder / "closed").open("a") as file:
            file.write(f"{self.key} {dist.get_rank()}\n")


def double(tool: Doubler, piece: int) -> tuple[int, int, int]:
    """(twice the piece, rank, identity of the tool)."""
    if piece < 0:
        raise UserError("negative", where=f"piece {piece}", remedy="none") if piece == -1 else OSError("gone")
    return 2 * piece, dist.get_rank(), id(tool)


def spread_numbers(processes, folder):
    tool = Doubler(folder)
    remote = Remote(tool, double)
    first, second = (
        processes.spread(range(start, start + 5), lambda piece: double(tool, piece), remote) for start in (0, 5)
    )
    assert [value for value, _, _ in first + second] == [2 * piece for piece in range(10)]
    assert [rank for _, rank, _ in first] == [0, 1, 0, 1, 0]
    assert first[1][2] == second[3][2], "a helper opened the same tool again"
    alone = processes.spread([1, 2], lambda piece: piece + 1)
    assert alone == [2, 3]
    assert processes.spread([], double, remote) == []
    return "done"


def fail_with(piece):
    def action(processes, folder):
        tool = Doubler(folder)
        processes.spread([1, piece, 3], lambda one: double(tool, one), Remote(tool, double))

    return action


def fail_alone(_processes, _folder):
    raise UserError("refused")


ACTIONS = {"numbers": spread_numbers, "user error": fail_with(-1), "other error": fail_with(-2), "alone": fail_alone}


def run_rank(rank: int, name: str, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    processes = Processes(rank, 2)
    try:
        result = processes.first(lambda: ACTIONS[name](processes, folder))
        said = str(result)
        assert processes.gather(rank) == [0, 1]
        assert processes.same(rank) == 0
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        said = f"{type(error).__name__}: {error} {notes}"
    except SystemExit as left:
        said = f"left {left.code}"
    (folder / f"said-{rank}").write_text(said)
    os._exit(0)


@pytest.fixture
def both(tmp_path):
    """What each of two processes says in the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_processes"])

    def run(name):
        children = [context.Process(target=run_rank, args=(rank, name, tmp_path)) for rank in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        return [(tmp_path / f"said-{rank}").read_text() for rank in range(2)]

    return run


def test_pieces_are_spread_and_come_back_in_order(both, tmp_path):
    assert both("numbers") == ["done", "None"]
    assert (tmp_path / "closed").read_text() == "doubler 1\n"


@pytest.mark.parametrize(
    "name,message",
    [
        ("user error", "UserError: piece -1: negative\n  -> none []"),
        ("other error", "OSError: gone ['in process 1']"),
        ("alone", "UserError: refused []"),
    ],
)
def test_a_failure_anywhere_is_told_by_the_first_process_alone(both, name, message):
    assert both(name) == [message, "left 2"]


def test_one_process_works_by_itself():
    processes = Processes()
    assert processes.first(lambda: processes.spread([1, 2], lambda piece: -piece)) == [-1, -2]
    assert processes.same(3) == 3 and processes.gather(3) == [3]
