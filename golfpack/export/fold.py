"""Conditions whose value is known, worked out: branches that are never taken leave the text."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from golfpack.errors import UsageError
from golfpack.export.edits import Text, first_line, reindented
from golfpack.export.scopes import occurrences

Known = Mapping[str, Any]

_UNKNOWN: Any = object()
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_ATOMS = (
    ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.List, ast.Dict, ast.Set,
    ast.ListComp, ast.DictComp, ast.SetComp, ast.JoinedStr,
)  # fmt: skip
# A branch inside a branch is seen once the outer one is gone.
_MAX_ROUNDS = 1000


def fold(source: str, known: Known) -> str:
    """The text without what cannot happen, given the values of some expressions.

    Known expressions become their values wherever they are read. `if`, conditional expressions, `and`,
    `or`, `not`, comparisons and integer arithmetic of known values are worked out; dead branches,
    assertions that hold and statements behind a `return` leave the text, with their comments.

    Args:
        source: of a module.
        known: expressions, as one writes them, and their values: {"cfg.tied": True, "len(xs) > 1":
            False}. They are told by their syntax, so they have to mean one thing throughout the text. A
            name that is a global of the text is that global, and no local of the same name.

    Raises:
        UsageError: a key is no expression, or a value is no literal.
    """
    for text, value in known.items():
        _check_literal(text, value)
    return _folded(source, tuple((text, repr(value)) for text, value in known.items()))


@cache  # bundles know the same of most modules
def _folded(source: str, known: tuple[tuple[str, str], ...]) -> str:
    values = {_key(text): _read(value) for text, value in known}
    for _ in range(_MAX_ROUNDS):
        text = Text(source)
        _Fold(text, values).visit(text.tree)
        if not text.edited:
            break
        source = text.changed()
    return source


@cache
def _key(text: str) -> str:
    try:
        return ast.dump(ast.parse(text, mode="eval").body)
    except SyntaxError as e:
        raise UsageError(f"{text!r} is no expression", "write it as it stands in the code") from e


def _check_literal(text: str, value: Any) -> None:
    if _read(repr(value)) != value:
        raise UsageError(f"{text!r} cannot be known to be {value!r}", "give a literal")


@cache
def _read(text: str) -> Any:
    """What a literal stands for, or _UNKNOWN."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return _UNKNOWN


class _Fold(ast.NodeVisitor):
    """Collects changes, of outermost nodes; what is inside them is seen in the next round."""

    def __init__(self, text: Text, known: Mapping[str, Any]) -> None:
        self.text, self.known = text, known
        self.kinds = {dumped.partition("(")[0] for dumped in known}
        # Names of functions' own that are spelt like a global one.
        self.other = {
            id(o.node)
            for o in occurrences(text.tree)
            if o.owner is not None and o.owner.kind != "module" and o.name in o.owner.module().bound
        }

    # --- values ------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """What an expression is, or _UNKNOWN."""
        if isinstance(node, ast.Constant):
            return node.value
        if type(node).__name__ in self.kinds and id(node) not in self.other:
            found = self.known.get(ast.dump(node), _UNKNOWN)
            if found is not _UNKNOWN:
                return found
        match node:
            case ast.UnaryOp(op=ast.Not()):
                v = self.value(node.operand)
                return v if v is _UNKNOWN else not v
            case ast.BoolOp():
                return self._bool(node)
            case ast.Compare(ops=[op]):
                return self._apply(op, node.left, node.comparators[0])
            case ast.BinOp():
                return self._apply(node.op, node.left, node.right)
            case _:
                return _UNKNOWN

    def _bool(self, node: ast.BoolOp) -> Any:
        ends = isinstance(node.op, ast.Or)
        v: Any = _UNKNOWN
        for operand in node.values:
            v = self.value(operand)
            if v is _UNKNOWN or bool(v) == ends:
                return v
        return v

    def _apply(self, op: ast.AST, left: ast.expr, right: ast.expr) -> Any:
        a, b = self.value(left), self.value(right)
        if a is _UNKNOWN or b is _UNKNOWN or type(op) not in _OPERATORS:
            return _UNKNOWN
        if isinstance(op, ast.operator) and not (type(a) is type(b) is int):
            return _UNKNOWN
        try:
            return _OPERATORS[type(op)](a, b)
        except (TypeError, ZeroDivisionError):
            return _UNKNOWN

    # --- expressions -------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr):  # what is in it has no true place before Python 3.12
            return
        if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
            v = self.value(node)
            if v is not _UNKNOWN:
                self.text.replace(*self.text.span(node), repr(v))
                return
        for block in _blocks(node):
            self._block(block)
        super().visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        test = self.value(node.test)
        if test is _UNKNOWN:
            self._truth(node.test)
            self.visit(node.body)
            self.visit(node.orelse)
        else:
            self._take(node, node.body if test else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp, truth: bool = False) -> None:
        """Operands that decide nothing leave; in a condition also those behind an unknown one."""
        kept: list[ast.expr] = []
        for i, operand in enumerate(node.values):
            v = self.value(operand)
            last = i == len(node.values) - 1
            decides = v is _UNKNOWN or bool(v) == isinstance(node.op, ast.Or)
            if decides or (not truth and (kept or last)):
                kept.append(operand)
        if len(kept) < len(node.values) and kept:
            word = " or " if isinstance(node.op, ast.Or) else " and "
            text = word.join(self._enclosed(k) for k in kept)
            self.text.replace(*self.text.span(node), text)
            return
        for operand in node.values:
            self._truth(operand) if truth else self.visit(operand)

    def _truth(self, node: ast.expr) -> None:
        """Visit an expression of which only the truth counts."""
        if self.value(node) is _UNKNOWN and isinstance(node, ast.BoolOp):
            self.visit_BoolOp(node, truth=True)
        else:
            self.visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._truth(node.test)
        self._all([*node.body, *node.orelse])

    def _all(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _take(self, node: ast.expr, chosen: ast.expr) -> None:
        self.text.replace(*self.text.span(node), self._enclosed(chosen))

    def _enclosed(self, node: ast.expr) -> str:
        if (v := self.value(node)) is not _UNKNOWN:
            return repr(v)
        text = self.text.of(node)
        return text if isinstance(node, _ATOMS) else f"({text})"

    # --- statements --------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        test = self.value(node.test)
        if test is _UNKNOWN:
            self._truth(node.test)
            self._all([*node.body, *node.orelse])

    def _block(self, body: Sequence[ast.stmt]) -> None:
        """Splice the branches of known conditions into a block, and drop what is never reached."""
        dropped: list[ast.stmt] = []
        spliced = False
        for i, node in enumerate(body):
            if isinstance(node, _ENDS) and i + 1 < len(body):
                dropped += body[i + 1 :]
                break
            if isinstance(node, ast.Assert) and self.value(node.test) not in (_UNKNOWN, False):
                dropped.append(node)
            elif isinstance(node, ast.If) and (v := self.value(node.test)) is not _UNKNOWN:
                text = self._branch(node, bool(v))
                if text is None:
                    dropped.append(node)
                else:
                    spliced = True
                    self._put(node, text, bool(v))
        whole = len(dropped) == len(body) and not self.text.of(body[0]).startswith("elif")
        if dropped and not spliced and whole:
            pad = " " * body[0].col_offset
            self._put(dropped.pop(0), f"{pad}pass\n")
        for node in dropped:
            self._put(node, "")

    def _put(self, node: ast.stmt, text: str, comments: bool = False) -> None:
        """Whole lines for a statement and, unless they are to stay, for the comments above it."""
        assert node.end_lineno is not None
        first = first_line(node)
        if not comments:
            first = self.text.comments_above(first)
        start, end = self.text.line_start(first), self.text.line_start(node.end_lineno + 1)
        self.text.replace(start, end, text)

    def _branch(self, node: ast.If, taken: bool) -> str | None:
        """The lines for an `if` (or an `elif`) whose condition is known; None for nothing."""
        inner = self.text.of(node).startswith("elif")
        pad = " " * node.col_offset
        if taken:
            body = self._body(node.body, node.test.end_lineno)
            return f"{pad}else:\n{body}" if inner else reindented(body, -_step(node))
        if not node.orelse:
            return None
        assert node.end_lineno is not None
        assert node.body[-1].end_lineno is not None
        rest = node.orelse[0]
        if isinstance(rest, ast.If) and self.text.of(rest).startswith("elif"):
            text = self.text.lines(rest.lineno, node.end_lineno)
            return text if inner else text.replace("elif", "if", 1)
        if inner:
            return self.text.lines(node.body[-1].end_lineno + 1, node.end_lineno)
        return reindented(self._body(node.orelse, self._else_line(node)), -_step(node))

    def _else_line(self, node: ast.If) -> int:
        line = node.orelse[0].lineno
        while not self.text.lines(line, line).lstrip().startswith("else:"):
            line -= 1
        return line

    def _body(self, body: Sequence[ast.stmt], header: int | None) -> str:
        """The lines of a block, the comments that begin it included."""
        last = body[-1].end_lineno
        assert header is not None
        assert last is not None
        if body[0].lineno <= header:
            raise UsageError("a block on the line of its `if` cannot be spliced", "give it a line")
        first = header + 1
        while self.text.lines(first, first).strip().startswith(")"):  # the end of a long condition
            first += 1
        return self.text.lines(first, last)


def _step(node: ast.If) -> int:
    """By how much a block is indented beneath its `if`."""
    return node.body[0].col_offset - node.col_offset


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    found = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [b for b in found if isinstance(b, list) and b]
