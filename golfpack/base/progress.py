"""How long work tells how far it is: a callback, so that nothing below the commands prints."""

from collections.abc import Callable

# stage, done, total, note -> None. Total 0: not known.
Notify = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, note: str) -> None:
    """The default `Notify`: says nothing."""
