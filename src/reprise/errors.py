"""Errors that a user can fix: one error, or several findings reported together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "missing", "warning"]
"""`error`: the recipe or a file is wrong. `missing`: something does not exist yet. Both stop a run before its first
stage; `reprise plan` refuses only errors, so that a run can be planned before its data exist. `warning`: printed."""


@dataclass(frozen=True)
class Finding:
    """One result of a preflight check."""

    what: str
    where: str = ""
    """Setting and value, or file and line."""
    remedy: str = ""
    severity: Severity = "error"

    @classmethod
    def of(cls, error: "UserError", severity: Severity = "error") -> "Finding":
        """Make a finding with the message of an error."""
        return cls(error.what, error.where, error.remedy, severity)

    def __str__(self) -> str:
        where, remedy = f"{self.where}: " if self.where else "", f"\n  -> {self.remedy}" if self.remedy else ""
        return f"{where}{self.what}{remedy}"


class UserError(ValueError):
    """A mistake in the user's recipe, files or machine: the message says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(str(Finding(what, where, remedy)))

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> "UserError":
        """Combine all findings into one error."""
        if len(findings) == 1:
            return cls(findings[0].what, where=findings[0].where, remedy=findings[0].remedy)
        lines = [f"{index}. {finding}".replace("\n", "\n   ") for index, finding in enumerate(findings, 1)]
        return cls(f"{len(findings)} things to fix before the work can begin:\n" + "\n".join(lines))


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed, with the command that installs it."""
    return UserError(
        f"{purpose} needs the package `{package}`, which is not installed",
        remedy=f"pip install 'reprise-cpt[{extra}]'",
    )


def out_of_memory(error: BaseException, remedy: str) -> UserError | None:
    """The error to report if memory ran out on the host or a device; None for any other error.

    Args:
        error: exception raised by a library.
        remedy: the settings that help.
    """
    said = str(error)
    on_device = type(error).__name__ == "OutOfMemoryError"
    on_host = isinstance(error, MemoryError) or any(
        part in said for part in ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
    )
    if not (on_device or on_host):
        return None
    lines = said.splitlines() or [type(error).__name__]
    return UserError(f"out of memory on the {'device' if on_device else 'host'}: {lines[0]}", remedy=remedy)
