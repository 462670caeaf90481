"""Writes metrics.jsonl and sends metrics to trackers."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprise.errors import UserError, missing_extra
from reprise.storage import digest
from reprise.training.events import Event, numbers_of

log = logging.getLogger(__name__)


class Metrics:
    """Appends events to `metrics.jsonl` and sends their values to trackers, in the first process only."""

    def __init__(self, folder: Path, trackers: list[Any], name: str, settings: Any) -> None:
        """Open the file.

        Raises:
            UserError: a tracker's package is not installed, or it does not start.
        """
        self._trackers = [_open(tracker, folder, name, settings) for tracker in trackers]
        path = folder / "metrics.jsonl"
        _drop_unfinished_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._file.flush()
        numbers = numbers_of(event)
        for tracker in list(self._trackers) if numbers else ():
            try:
                tracker.log(numbers, event["step"])
            except Exception as error:  # a failing tracker must not stop training
                self._trackers.remove(tracker)
                log.warning("%s gets no more values; metrics.jsonl has all of them: %s", tracker.name, error)

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                log.warning("%s did not end well, metrics.jsonl has all numbers: %s", tracker.name, error)


def _open(name: str, folder: Path, run: str, settings: Any) -> Any:
    try:
        return _TRACKERS[name](folder, run, settings)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} does not start: {error}", where="training.trackers", remedy="set it up, or leave it out"
        ) from error


def _drop_unfinished_line(path: Path) -> None:
    """Remove the last line if it is incomplete, as a kill can leave it."""
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as handle:
            handle.truncate(data.rfind(b"\n") + 1)


class _TensorBoard:
    name = "tensorboard"

    def __init__(self, folder: Path, name: str, settings: Any) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "tensorboard", "training.trackers = tensorboard") from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """Weights & Biases, and Trackio, which has the same interface.

    A resumed run continues the same run in the tracker; W&B ignores repeated steps.
    """

    def __init__(self, module: str, folder: Path, name: str, settings: Any) -> None:
        import importlib

        self.name = module
        try:
            self._module = importlib.import_module(module)
        except ImportError:
            raise missing_extra(module, module, f"training.trackers = {module}") from None
        run_id = digest([str(folder.resolve()), settings])[:12]
        named = {"id": run_id, "name": name} if module == "wandb" else {"name": f"{name} {run_id}"}
        self._module.init(project="reprise", resume="allow", config=settings, **named)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


_TRACKERS: dict[str, Any] = {
    "tensorboard": _TensorBoard,
    "wandb": lambda folder, name, settings: _WandbLike("wandb", folder, name, settings),
    "trackio": lambda folder, name, settings: _WandbLike("trackio", folder, name, settings),
}
