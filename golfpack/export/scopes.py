"""Which scope binds every name of a module: what renaming, bundling and folding ask."""

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["module", "class", "function", "comprehension"]


@dataclass(eq=False)
class Scope:
    """A module, a class body, a function (or lambda) or a comprehension.

    Attributes:
        kind: what it is.
        parent: the scope around it; None of a module.
        bound: the names that are bound in it.
        elsewhere: names declared global or nonlocal in it, and where they are bound.
    """

    kind: Kind
    parent: "Scope | None" = None
    bound: set[str] = field(default_factory=set)
    elsewhere: dict[str, Literal["global", "nonlocal"]] = field(default_factory=dict)

    def module(self) -> "Scope":
        """The module it is in."""
        return self if self.parent is None else self.parent.module()

    def around(self) -> Iterator["Scope"]:
        """Itself and the scopes around it, as far as names in it can see: no class but itself."""
        yield self
        scope = self.parent
        while scope is not None:
            if scope.kind != "class":
                yield scope
            scope = scope.parent

    def owner(self, name: str) -> "Scope | None":
        """The scope that binds `name` as it is seen from here; None where nothing does (a builtin)."""
        if self.elsewhere.get(name) == "global":
            module = self.module()
            return module if name in module.bound else None
        return next((scope for scope in self.around() if name in scope.bound), None)


@dataclass(frozen=True, eq=False)
class Occurrence:
    """A place where a name stands.

    Attributes:
        node: what holds it: a Name, arg, FunctionDef, ClassDef, alias, ExceptHandler, Global, Nonlocal
            or a capture of `match`.
        field: the attribute of `node` with the name in it; of Global and Nonlocal its index in `names`.
        name: it.
        scope: from where it is seen.
    """

    node: ast.AST
    field: str | int
    name: str
    scope: Scope

    @property
    def owner(self) -> Scope | None:
        """The scope that binds it; None of a builtin."""
        return self.scope.owner(self.name)

    def rename(self, name: str) -> None:
        """Put another name in its place, in the tree."""
        if isinstance(self.field, int):
            assert isinstance(self.node, ast.Global | ast.Nonlocal)
            self.node.names[self.field] = name
        elif isinstance(self.node, ast.alias):
            self.node.asname = name if name != self.node.name else None
        else:
            setattr(self.node, self.field, name)


def occurrences(tree: ast.Module) -> list[Occurrence]:
    """Every name in a module, from the outside in; attributes and keywords are no names."""
    walk = _Walk()
    walk.body(tree.body)
    return walk.found


class _Walk(ast.NodeVisitor):
    """Collects the names, and fills in what each scope binds."""

    def __init__(self) -> None:
        self.scope = Scope("module")
        self.found: list[Occurrence] = []

    def body(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def see(self, node: ast.AST, where: str | int, name: str, *, binds: bool) -> None:
        if binds and name not in self.scope.elsewhere:
            self.scope.bound.add(name)
        self.found.append(Occurrence(node, where, name, self.scope))

    @contextmanager
    def within(self, kind: Kind) -> Iterator[None]:
        outer = self.scope
        self.scope = Scope(kind, outer)
        yield
        self.scope = outer

    def visit_Name(self, node: ast.Name) -> None:
        self.see(node, "id", node.id, binds=not isinstance(node.ctx, ast.Load))

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        kind = "global" if isinstance(node, ast.Global) else "nonlocal"
        for i, name in enumerate(node.names):
            self.scope.elsewhere[name] = kind
            self.see(node, i, name, binds=False)
            if kind == "global":
                self.scope.module().bound.add(name)

    visit_Nonlocal = visit_Global

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self.see(alias, "asname", name, binds=True)

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.see(node, "name", node.name, binds=True)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        if node.name:
            self.see(node, "name", node.name, binds=True)
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.see(node, "rest", node.rest, binds=True)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.see(node, "name", node.name, binds=True)
        self.body(node.decorator_list)
        self._function(node, node.body)
        if node.returns:
            self.visit(node.returns)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, [node.body])

    def _function(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        body: Sequence[ast.AST],
    ) -> None:
        a = node.args
        self.body([*a.defaults, *(d for d in a.kw_defaults if d is not None)])
        all_args = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        self.body([arg.annotation for arg in all_args if arg.annotation is not None])
        with self.within("function"):
            for arg in all_args:
                self.see(arg, "arg", arg.arg, binds=True)
            self.body(body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.see(node, "name", node.name, binds=True)
        self.body([*node.decorator_list, *node.bases, *node.keywords])
        with self.within("class"):
            self.body(node.body)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        self.visit(node.generators[0].iter)
        with self.within("comprehension"):
            for i, part in enumerate(node.generators):
                self.visit(part.target)
                if i:
                    self.visit(part.iter)
                self.body(part.ifs)
            results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            self.body(results)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """`:=` in a comprehension binds in the function around it, and is seen from there."""
        self.visit(node.value)
        inside = self.scope
        while self.scope.parent is not None and self.scope.kind == "comprehension":
            self.scope = self.scope.parent
        self.visit(node.target)
        self.scope = inside
