"""Source that says less: what is wrong stays an error, with as many words as somebody needs.

A counted script pays for every word. What its user can get wrong (files, windows) keeps its message,
without the hint; a damaged artifact is one error without words, of which `golfpack verify` tells more.
"""

import ast
from collections.abc import Collection, Iterator, Sequence

# Modules, by how their names begin, whose errors are all the same to whoever runs a script.
_WORDLESS = ("golfpack/packer/", "golfpack/base/")
# The one of them that checks the digest of the whole file: what passes is what golfpack wrote.
_GUARD = "golfpack/packer/format/container.py"
_SECTION = "# --- "


def quiet(
    source: str, *, keep: Collection[str] = (), error: str = "CorruptError", sealed: bool = False
) -> str:
    """A bundle with fewer words, and without what only the words needed.

    `raise Error(message, hint)` and `require(holds, message, hint)` keep the message, or nothing in the
    modules that read the artifact. There, too, goes a `try` that turns one error into another; what a
    class checks of its options, which an export has checked; what is for writing; every check that only
    a file made to deceive could fail: the file's own digest is checked before.

    Args:
        source: as `bundle` writes it, each module's part under a line with its name.
        keep: names that others use; without any, what its last statements run is all that stays.
        error: what a damaged artifact ends in, by its name in the bundle.
        sealed: the file's digest is known beforehand: its framing is not looked at either.
    """
    tree = ast.parse(source)
    wordless = {line for line, module in _modules(source) if module.startswith(_WORDLESS)}
    own = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    guard = None if sealed else _GUARD
    unguarded = {line for line, module in _modules(source) if line in wordless and module != guard}
    tree = _Quiet(own, wordless, unguarded, error).visit(tree)
    tree.body = _used(tree.body, set(keep))
    return ast.unparse(ast.fix_missing_locations(tree))


def _modules(source: str) -> Iterator[tuple[int, str]]:
    """The module of each line of a bundle."""
    module = ""
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith(_SECTION):
            module = line.removeprefix(_SECTION).split()[0]
        yield number, module


class _Quiet(ast.NodeTransformer):
    def __init__(self, own: set[str], wordless: set[int], unguarded: set[int], error: str) -> None:
        self.own, self.wordless, self.unguarded = own, wordless, unguarded
        self.error = error

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        gone = {"__post_init__"} if node.name.endswith("Options") else set[str]()
        if node.lineno in self.wordless:
            gone = {"__post_init__", "encode"}
        node.body = [n for n in node.body if getattr(n, "name", "") not in gone] or [ast.Pass()]
        if any(
            isinstance(b, ast.Name) and b.id.endswith(("Error", "Exception")) for b in node.bases
        ):
            node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        match node:
            case ast.If(body=[ast.Raise()], orelse=[]) if node.lineno in self.unguarded:
                if not any(isinstance(n, ast.NamedExpr) for n in ast.walk(node.test)):
                    return ast.Pass()
            case _:
                pass
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        match node.exc:
            case ast.Call(func=ast.Name(id=name), args=args) if name in self.own:
                node.exc = self._error(node, args, name)
            case _:
                pass
        return self.generic_visit(node)

    def _error(self, node: ast.stmt, words: Sequence[ast.expr], kind: str = "") -> ast.expr:
        if node.lineno in self.wordless:
            return ast.Name(self.error, ast.Load())
        kind = kind if kind == self.error else "UsageError"
        return ast.Call(ast.Name(kind, ast.Load()), list(words[:1]), [])

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        match node.value:
            case ast.Call(func=ast.Name(id="require"), args=[holds, *words]):
                wrong = ast.UnaryOp(ast.Not(), self.visit(holds))
                return ast.If(wrong, [ast.Raise(self._error(node, words))], [])
            case _:
                return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="cast"), args=[_, value]):
                return value
            case ast.Call(func=ast.Name(id="zip")):
                node.keywords = [k for k in node.keywords if k.arg != "strict"]
                return node
            case _:
                return node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        tells = all(len(h.body) == 1 and isinstance(h.body[0], ast.Raise) for h in node.handlers)
        if node.handlers and tells and node.lineno in self.wordless and not node.finalbody:
            return [*node.body, *node.orelse]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return node


def _used(body: list[ast.stmt], keep: set[str]) -> list[ast.stmt]:
    """The statements of a module without definitions and imports that nothing else needs."""
    while True:
        needs = [_loaded(node) for node in body]
        kept = [
            node
            for i, node in enumerate(body)
            if not (names := _defined(node))
            or names & keep
            or any(names & need for k, need in enumerate(needs) if k != i)
        ]
        for node in kept:
            if isinstance(node, ast.Import | ast.ImportFrom):
                every = set[str]().union(*needs)
                node.names = [a for a in node.names if _bound(a) in every]
        if len(kept) == len(body):
            return kept
        body = kept


def _defined(node: ast.stmt) -> set[str]:
    """What a statement does nothing but define; nothing where it may do more."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {_bound(a) for a in names}
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            names = [n for n in ast.walk(target) if isinstance(n, ast.Name)]
            plain = not any(isinstance(n, ast.Attribute | ast.Subscript) for n in ast.walk(target))
            return {n.id for n in names} if plain else set()
        case _:
            return set()


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _loaded(node: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
