"""What golfpack prints. Data goes to stdout, everything else to stderr.

rich is imported with the first text that needs it, so that commands may import this at their top.
"""

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from golfpack.commands.render.escape import escaped
from golfpack.commands.render.progress import Reporter as Reporter
from golfpack.commands.render.starting import starting
from golfpack.commands.render.stderr import say

if TYPE_CHECKING:
    from rich.table import Table

    from golfpack.commands.render.terminal import Stdout

# A pipe or a file has no width: tables there are as wide as they need to be.
_PIPE_WIDTH = 200
# Values of model options that mean: without this feature.
_OFF = (False, 0, -1, "", "none")


class _Out:
    """Stdout, for people."""

    @cached_property
    def _console(self) -> "Stdout":
        from golfpack.commands.render.terminal import Stdout

        return Stdout(soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)

    def print(self, shown: "str | Table") -> None:
        """A line or a table."""
        starting.over()
        self._console.print(shown)

    @property
    def width(self) -> int:
        """Of the terminal, in characters."""
        return self._console.width

    @property
    def is_terminal(self) -> bool:
        """Whether anyone looks: a pipe and a file get every column."""
        return self._console.is_terminal


out = _Out()


def note(text: str) -> None:
    """A line for people, on stderr."""
    starting.over()
    say(f"{escaped(text)}\n")


def write(text: str) -> None:
    """A piece of text on stdout, at once, without a line's end."""
    sys.stdout.write(escaped(text))
    sys.stdout.flush()


def data(text: str) -> None:
    """A whole document, on stdout."""
    starting.over()
    sys.stdout.write(escaped(text if text.endswith("\n") else text + "\n"))


def show_json(report: Any) -> None:
    """A report, or a list of them, as JSON on stdout."""
    from golfpack.base.documents import to_json

    data(to_json(report))


def show_assumed(assumed: dict[str, Any]) -> None:
    """What neither the shapes nor the user told, on stderr."""
    if assumed:
        off = [name for name, value in assumed.items() if value in _OFF]
        on = [f"{name}={value}" for name, value in assumed.items() if name not in off]
        parts = [", ".join(on), f"off: {', '.join(off)}" if off else ""]
        says = "; ".join(part for part in parts if part)
        note(f"assumed (shapes cannot tell): {says}; change with --set model.NAME=VALUE")


def show_notes(notes: Sequence[str]) -> None:
    """What was done to a checkpoint's tensors when it was read, on stderr."""
    for text in notes:
        note(f"note: {text}")


def warn(warnings: Sequence[str]) -> None:
    """Warnings, on stderr."""
    if not warnings:
        return
    from rich.text import Text

    from golfpack.commands.render.terminal import Terminal

    err = Terminal(stderr=True, soft_wrap=True)
    for warning in warnings:
        err.print(Text.assemble(("warning:", "bold yellow"), f" {escaped(warning)}"))


def number(value: float | None, spec: str) -> str:
    """A figure for a table; "-" where there is none."""
    return "-" if value is None else format(value, spec)
