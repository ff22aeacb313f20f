"""What is said where a command is slow to start: torch alone takes one to three seconds to load."""

import os
import sys
import threading

from golfpack.commands.render.stderr import say

# Seconds after which somebody who waits wants to know that something happens.
PATIENCE = 1.0
_SILENT = ("-q", "--quiet", "--version", "--help", "-h")


def at_terminal() -> bool:
    """Whether somebody looks at what goes to stderr."""
    return sys.stderr.isatty()


class Starting:
    """Says once that the program is loading, unless anything else was said by then."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self, argv: list[str]) -> None:
        """From here on nobody at a terminal waits longer than PATIENCE without a word.

        One rank speaks for all, and a file or a program that reads along is told nothing: what it gets
        would depend on how fast the machine is.
        """
        rank, completing = os.environ.get("RANK", "0"), "_GOLFPACK_COMPLETE" in os.environ
        quiet = completing or rank != "0" or any(a in _SILENT for a in argv)
        quiet = quiet or not at_terminal()
        if quiet or "torch" in sys.modules:
            return
        self._timer = threading.Timer(PATIENCE, self._say)
        self._timer.daemon = True
        self._timer.start()

    def over(self) -> None:
        """Something else was said, or it is the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self) -> None:
        say("starting: loading torch\n")


starting = Starting()
