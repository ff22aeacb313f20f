"""Lines for people. Whoever closes stderr has seen enough: the work goes on, and says no more."""

import os
import sys


def say(text: str) -> None:
    """Write a text to stderr, at once."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        hush()


def hush() -> None:
    """Lead stderr, and what it still holds, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
