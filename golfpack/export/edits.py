"""Changes to source text at the places of its syntax tree: comments and lines stay as they were."""

import ast
from collections.abc import Sequence


class Text:
    """The text of a module, and what stands where.

    Attributes:
        source: it.
        tree: its syntax tree.
    """

    def __init__(self, source: str, tree: ast.Module | None = None) -> None:
        """`tree` is the source's where it is parsed already; it is left as it is."""
        self.source = source
        self.tree = ast.parse(source) if tree is None else tree
        self._bytes = source.encode()
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self._edits: list[tuple[int, int, str]] = []

    def at(self, line: int, column: int) -> int:
        """The byte at a line (from 1 on) and a column (in bytes, from 0 on), as trees have them."""
        return self._starts[line - 1] + column

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte of a node, and the one behind its last."""
        n: ast.expr = node  # type: ignore[assignment]  # all that have a place have it in these fields
        assert n.end_lineno is not None
        assert n.end_col_offset is not None
        return self.at(n.lineno, n.col_offset), self.at(n.end_lineno, n.end_col_offset)

    def slice(self, start: int, end: int) -> str:
        """The text of some bytes."""
        return self._bytes[start:end].decode()

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        return self.slice(*self.span(node))

    def lines(self, first: int, last: int) -> str:
        """The text of whole lines, from 1 on, the last included."""
        return self.slice(self._starts[first - 1], self._starts[min(last, len(self._starts) - 1)])

    def line_start(self, line: int) -> int:
        """The first byte of a line."""
        return self._starts[min(line, len(self._starts)) - 1]

    def comments_above(self, line: int) -> int:
        """The first of the comment lines that stand directly above a line and belong to it."""
        indent = _indent(self.lines(line, line))
        while line > 1:
            above = self.lines(line - 1, line - 1)
            if not above.lstrip().startswith("#") or _indent(above) != indent:
                break
            line -= 1
        return line

    def replace(self, start: int, end: int, text: str) -> None:
        """Put `text` for some bytes, once `changed` is called."""
        self._edits.append((start, end, text))

    @property
    def edited(self) -> bool:
        """Whether there is anything to change."""
        return bool(self._edits)

    def changed(self, start: int = 0, end: int | None = None) -> str:
        """The text of some bytes with the changes made; those that lie within another's are lost."""
        end = len(self._bytes) if end is None else end
        out: list[str] = []
        at = start
        for first, last, text in sorted(self._edits, key=lambda e: (e[0], -e[1])):
            if first < at or last > end:
                continue
            out += [self.slice(at, first), text]
            at = last
        return "".join([*out, self.slice(at, end)])


def first_line(node: ast.stmt) -> int:
    """The line where a statement begins, decorators included."""
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def reindented(text: str, by: int) -> str:
    """Lines moved to the right, or to the left where `by` is negative; empty ones stay empty."""
    moved = [
        line if not line.strip() else " " * by + line if by >= 0 else line[-by:]
        for line in text.splitlines(keepends=True)
    ]
    return "".join(moved)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
