"""rich's console as golfpack prints through it. Imported with the first text that is printed."""

import errno
import re
from typing import Any

from rich.console import Console
from rich.text import Text

from golfpack.commands.render.escape import escaped
from golfpack.commands.render.stderr import hush


class Terminal(Console):
    """Shows every text as it is: no markup, no emoji, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Nobody reads: stderr is let go of, stdout raises as any other way to it does."""
        if not self.stderr:
            raise BrokenPipeError(errno.EPIPE, "nobody reads stdout")
        hush()

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, or a cell of a table, before it is laid out."""
        return super().render_str(escaped(text), **options)


class Stdout(Terminal):
    """In a pipe or a file lines end where their text does; rich fills a table's last column."""

    def print(self, *objects: Any, **options: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as held:
            super().print(*objects, **options)
        text = re.sub(r" +$", "", held.get(), flags=re.MULTILINE)
        super().print(Text(text), end="", soft_wrap=True)
