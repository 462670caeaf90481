"""Lets the user change shares while a stage trains, with a file in the folder of the stage.

    WORKSPACE/train-1.partial/shares.json           {"zh": 0.3, "zh/web/Others": 0.05}
    WORKSPACE/train-1.partial/shares-applied.json   what took effect, and at which row

With the second file a resumed run changes its shares at the same row as the killed one, even if its last checkpoint is
older than the change.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.records import record
from reprise.storage import digest, write_json

log = logging.getLogger(__name__)

CAUSE = "shares.json"


@record
class AppliedShares(TypedDict):
    """Shares from the user's file that took effect."""

    rows: int
    """Rows of the stage returned before the change."""
    digest: str
    """Hash of `shares`, which identifies a file that was already read."""
    shares: dict[str, float]
    """Path, such as `zh/web` -> share of its parent, as in the file."""


class SharesFile:
    """Polled before every step by the first process, which broadcasts the result.

    for shares in shares_file.poll(sampler):     # in the first process; then broadcast the list
        changes = sampler.set_shares(shares, CAUSE)
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is the folder of the running stage."""
        self._file, self._applied_file = folder / "shares.json", folder / "shares-applied.json"
        try:
            self._applied: list[AppliedShares] = json.loads(self._applied_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._applied = []
        self._asked_at: int | None = None
        self._seen: tuple[int, int] | None = None

    def poll(self, sampler: Sampler) -> list[dict[str, float]]:
        """Shares to apply now, oldest first; warns once of a file that cannot be used."""
        now = sampler.rows_done
        # On the first call, and after a return to a checkpoint, the state contains all changes before this row.
        since = now - 1 if self._asked_at is None or now < self._asked_at else self._asked_at
        self._asked_at = now
        due = [dict(entry["shares"]) for entry in self._applied if since < entry["rows"] <= now]
        shares = self._read(sampler)
        if shares is not None:
            # Changes at later rows belong to a part of the run that was lost; the user's newest file counts.
            self._applied = [entry for entry in self._applied if entry["rows"] < now]
            self._applied.append({"rows": now, "digest": digest(shares), "shares": shares})
            write_json(self._applied_file, self._applied)
            due.append(shares)
        return due

    def _read(self, sampler: Sampler) -> dict[str, float] | None:
        """The content of the file, if it is new and can be used."""
        try:
            stat = os.stat(self._file)  # noqa: PTH116 - once in every step: a third of the time of Path.stat
        except OSError:
            return None
        if self._seen == (stat.st_mtime_ns, stat.st_size):
            return None
        self._seen = (stat.st_mtime_ns, stat.st_size)
        try:
            shares = json.loads(self._file.read_text(encoding="utf-8"))
            if not isinstance(shares, Mapping):
                raise UserError("not an object of shares", where=CAUSE, remedy='write for example {"zh": 0.3}')
            if self._applied and self._applied[-1]["digest"] == digest(shares):
                return None
            sampler.check_shares(shares, CAUSE)
        except (OSError, ValueError) as error:  # a UserError is a ValueError
            log.warning("%s is not applied, the shares stay: %s", self._file, error)
            return None
        return dict(shares)
