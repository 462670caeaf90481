"""The one kind of error that a user can fix."""


class UserError(ValueError):
    """A mistake in the user's recipe, files or machine: one message says what, where and what to do.

    The command line prints it without a traceback and leaves with exit code 2.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__((f"{where}: " if where else "") + what + (f"\n  -> {remedy}" if remedy else ""))


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed, with the command that installs it."""
    return UserError(
        f"{purpose} needs the package `{package}`, which is not installed",
        remedy=f"pip install 'reprise-cpt[{extra}]'",
    )
