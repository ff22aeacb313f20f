"""Errors a user can act on, and the process exit codes they map to.

Every error carries what is wrong (`message`) and what to do next (`hint`). `cli.main` prints both on
stderr and exits with `exit_code`; a traceback is shown only for faults of our own, or with
`GOLFPACK_DEBUG=1`. This module imports nothing of ours, so anything may import it.
"""

import difflib
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    OVER_BUDGET = 3
    CORRUPT = 4
    STRICT = 5
    DIFFERENT = 6  # `diff --exit-code`: not an error, but for scripts to tell
    HANGUP = 129  # as of any program that this signal ends, and the next three
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


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


def unreadable(path: Path, error: OSError | None = None, what: str = "") -> UsageError:
    """The error for a file that cannot be read, whose hint tells what lies in its place.

    Args:
        error: what reading it raised; None where it was only seen to be no file.
        what: such as "recipe ", before the path.
    """
    if path.is_dir():
        return UsageError(f"{what}{path} is a folder, not a file", "name a file in it")
    if error is None or isinstance(error, FileNotFoundError):
        kind = what or "file "
        return UsageError(f"there is no {kind}{path}", near_files(path))
    return UsageError(f"cannot read {what}{path}: {error.strerror}", "check the path")


def near_files(path: Path) -> str:
    """What a mistyped path may have meant: files of its folder, those of similar names first."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"{path.parent} holds {', '.join(near or names[:5]) or 'no files'}"
