"""Errors a user can act on, and the process exit codes they map to.

Every error carries what is wrong (`message`) and what to do next (`hint`). `cli.main` prints both on
stderr and exits with `exit_code`; a traceback is shown only for faults of our own, or with
`GOLFPACK_DEBUG=1`. This module imports nothing of ours, so anything may import it.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    OVER_BUDGET = 3
    CORRUPT = 4
    STRICT = 5
    DIFFERENT = 6  # `diff --exit-code`: not an error, but for scripts to tell
    INTERRUPTED = 130


class GolfpackError(Exception):
    """Base of every error raised on purpose; catch this one to catch them all."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GolfpackError):
    """The input cannot be used: a bad option, file, recipe, checkpoint or shard."""

    exit_code = ExitCode.USAGE


class BudgetError(GolfpackError):
    """No artifact fits the budget; carries the figures behind the message.

    Attributes:
        shortfall: bytes missing, so that `budget + shortfall` is known to be reachable; None where
            a quality was asked for and not a size, or where the weights were not looked at.
    """

    exit_code = ExitCode.OVER_BUDGET

    def __init__(
        self, message: str, hint: str | None = None, *, shortfall: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.shortfall = shortfall


class CorruptError(GolfpackError):
    """A file is damaged or hostile, or an audit found two figures that must agree and do not."""

    exit_code = ExitCode.CORRUPT


class StrictError(GolfpackError):
    """`--strict` turned a counted warning into an error."""

    exit_code = ExitCode.STRICT


class PeerError(GolfpackError):
    """Another process of a distributed run failed first, and has said why: nothing to add here."""
