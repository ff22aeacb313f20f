"""Progress on stderr: a live line per stage on a terminal, plain lines elsewhere.

A narrow terminal gets fewer columns and a shorter note; no line ever wraps.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from golfpack.commands.render.escape import escaped
from golfpack.commands.render.starting import starting
from golfpack.commands.render.stderr import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

# Off a terminal a running stage says how far it is this often, in seconds.
PLAIN_INTERVAL = 10.0
# Terminals of fewer columns go without the bar and the time that has passed, ...
_NARROW = 80
# ... and these without the time that is left.
_TINY = 40


class Reporter:
    """A `Notify` callback that shows progress on stderr; use as a context manager."""

    def __init__(self, quiet: bool = False, console: "Console | None" = None) -> None:
        """Show nothing if `quiet`. `console` stands in for stderr in tests."""
        from rich.console import Console

        self.quiet = quiet
        self.console = console or Console(stderr=True, highlight=False)
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = _progress(self.console) if live and not quiet else None
        self.tasks: dict[str, TaskID] = {}
        # When a stage began, and how much of it was done by then.
        self.began: dict[str, tuple[float, int]] = {}
        self.said: dict[str, float] = {}
        self.done: dict[str, int] = {}

    def __enter__(self) -> "Reporter":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to other output for a while."""
        if self.live:
            self.live.stop()
        yield
        if self.live:
            # A new one: the old would move up and draw over what was printed meanwhile.
            self.live, self.tasks = _progress(self.console), {}
            self.live.start()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        starting.over()
        if self.quiet:
            return
        note = escaped(note)
        again = done < self.done.get(stage, 0)  # as in a second build: its time starts anew
        self.done[stage] = done
        if self.live:
            self._show(self.live, stage, again)
            self.live.update(self.tasks[stage], completed=done, total=total or None, note=note)
            return
        if again:
            self.began[stage] = time.monotonic(), done
        self._plain(stage, done, total, note)

    def _show(self, live: "Progress", stage: str, again: bool) -> None:
        """Give the stage a line, and take it from those that only said that they had begun."""
        if stage not in self.tasks:
            self.tasks[stage] = live.add_task(stage, total=None, note="")
        elif again:
            live.reset(self.tasks[stage])
        for task in live.tasks:
            shown = task.id == self.tasks[stage] or task.total is not None
            if task.visible != shown:
                live.update(task.id, visible=shown)

    def _plain(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        first = stage not in self.began
        began, before = self.began.setdefault(stage, (now, done))
        if first or now - self.said[stage] >= PLAIN_INTERVAL:
            self.said[stage] = now
            share = f" {done}/{total}" if total else ""
            eta = ""
            if before < done < total and now > began:  # else there is nothing to estimate from
                eta = f" eta {(now - began) * (total - done) / (done - before):.0f} s"
            say(f"{stage}{share} {note}{eta}".rstrip() + "\n")


def _progress(console: "Console") -> "Progress":
    from rich.progress import Progress

    return Progress(*_columns(console.width), console=console, transient=True, expand=True)


def _columns(width: int) -> "list[ProgressColumn]":
    """What a terminal of this width has room for; the note takes what is left."""
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    fixed = Column(no_wrap=True)
    columns: list[ProgressColumn] = [
        SpinnerColumn(table_column=fixed.copy()),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=9)),
    ]
    if width >= _NARROW:
        columns += [BarColumn(bar_width=24), TimeElapsedColumn(table_column=fixed.copy())]
    if width >= _TINY:
        columns += [
            TextColumn("eta", table_column=fixed.copy()),
            TimeRemainingColumn(compact=width < _NARROW, table_column=fixed.copy()),
        ]
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    note = TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=rest)
    return [*columns, note]
