"""Source that trusts its input: checks left out, then what only they needed, constants and calls put in.

For programs whose input is known to be whole: a decoder that has compared a file's sha256 has no need of
the other hundred checks, and bytes that count may not be spent on them.
"""

import ast
from collections import Counter
from collections.abc import Collection
from typing import Any

from golfpack.export.scopes import Scope, occurrences

_FOLDED: dict[type[ast.operator], Any] = {
    ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__, ast.LShift: int.__lshift__,
    ast.RShift: int.__rshift__, ast.FloorDiv: int.__floordiv__,
}  # fmt: skip
_MAX_ROUNDS = 12


def slim(source: str, *, checks: Collection[str], error: str, keep: Collection[str]) -> str:
    """The program without its checks, but for a few.

    Left out are `if ...: raise ...`, assertions, `try` whose handlers all raise (in all functions but
    `keep`), `cast`, and `strict=True` of `zip`. What stays raises `error` without a message. Then, until
    nothing changes: functions, methods and constants that nothing uses go, constants that are plain literals
    and functions of one `return` that are called once are put where they are used, and arguments that a
    function does not read are dropped.

    Args:
        source: a whole program.
        checks: phrases; a check whose message has one of them stays.
        error: the class that the checks raise.
        keep: global names that others use.
    """
    tree = ast.parse(source)
    _Trust(frozenset(checks), error, frozenset(keep)).visit(tree)
    tree = ast.parse(ast.unparse(ast.fix_missing_locations(tree)))
    for _ in range(_MAX_ROUNDS):
        before = ast.dump(tree)
        for change in _CHANGES:
            change(tree, frozenset(keep))
            # What was put in several places becomes several nodes.
            tree = ast.parse(ast.unparse(ast.fix_missing_locations(_Fold().visit(tree))))
        if ast.dump(tree) == before:
            break
    return ast.unparse(tree)


class _Trust(ast.NodeTransformer):
    """Takes the checks out."""

    def __init__(self, checks: frozenset[str], error: str, keep: frozenset[str]) -> None:
        self.checks, self.error, self.keep = checks, error, keep
        self.inside = ""

    def _block(self, body: list[ast.stmt], *, empty: bool = False) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for node in body:
            found = self.visit(node)
            out += found if isinstance(found, list) else [] if found is None else [found]
        return out or ([] if empty else [ast.Pass()])

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = self._block(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer, self.inside = self.inside, node.name
        node.body = self._block(_undocumented(node.body))
        self.inside = outer
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        body = self._block(_undocumented(node.body))
        node.body = [b for b in body if not _is_idle(b)] or [ast.Pass()]
        node.decorator_list = [
            d.func if isinstance(d, ast.Call) and getattr(d.func, "id", "") == "dataclass" else d
            for d in node.decorator_list
        ]
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        if isinstance(node.body[-1], ast.Raise):
            told = ast.unparse(node.body[-1])
            if not any(check in told for check in self.checks):
                return self._block(node.orelse, empty=True)
            node.body = [ast.Raise(ast.Name(self.error, ast.Load()))]
        else:
            node.body = self._block(node.body)
        node.test = self.visit(node.test)
        node.orelse = self._block(node.orelse, empty=True)
        return node

    def visit_For(self, node: ast.For) -> ast.AST | None:
        node.body = self._block(node.body)
        node.iter = self.visit(node.iter)
        return None if all(isinstance(b, ast.Pass) for b in node.body) else node

    def visit_Assert(self, node: ast.Assert) -> None:
        del node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        if self.inside not in self.keep and all(
            isinstance(h.body[-1], ast.Raise) for h in node.handlers
        ):
            return self._block(node.body)
        for handler in node.handlers:
            if isinstance(handler.body[-1], ast.Raise):
                handler.name, handler.body = None, [ast.Raise(ast.Name(self.error, ast.Load()))]
        node.body = self._block(node.body)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        if name == "cast":
            return node.args[1]
        if name == "zip":
            node.keywords = [k for k in node.keywords if k.arg != "strict"]
        return node


def _undocumented(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(ast.Constant(str())), *rest]:
            return rest
        case _:
            return body


def _is_idle(node: ast.stmt) -> bool:
    """A `__post_init__` that has nothing left to check."""
    return (
        isinstance(node, ast.FunctionDef)
        and node.name == "__post_init__"
        and all(isinstance(b, ast.Pass) for b in node.body)
    )


class _Fold(ast.NodeTransformer):
    """Works out what literals make, where that is not longer."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.BinOp(ast.Constant(int(a)), op, ast.Constant(int(b))) if type(op) in _FOLDED:
                if not isinstance(op, ast.LShift) or b < 64:
                    value = ast.Constant(_FOLDED[type(op)](a, b))
                    if len(ast.unparse(value)) <= len(ast.unparse(node)):
                        return value
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs = [i for i in node.ifs if not (isinstance(i, ast.Constant) and i.value is True)]
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        """`[x for x in xs]` is `list(xs)`."""
        self.generic_visit(node)
        match node:
            case ast.ListComp(
                ast.Name(id=a), [ast.comprehension(target=ast.Name(id=b), iter=of, ifs=[])]
            ) if a == b:
                return ast.Call(ast.Name("list", ast.Load()), [of], [])
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`tuple(... for f in ())` is `()`."""
        self.generic_visit(node)
        match node:
            case ast.Call(
                ast.Name(id="tuple"),
                [ast.GeneratorExp(generators=[ast.comprehension(iter=ast.Tuple(elts=[]))])],
            ):
                return ast.Tuple([], ast.Load())
        return node


# --- what is not used ----------------------------------------------------------------------------------


def _drop_unused(tree: ast.Module, keep: frozenset[str]) -> None:
    """Global definitions, imports and methods that nothing reads."""
    seen = occurrences(tree)
    inside = {
        id(part): top.name
        for top in tree.body
        if isinstance(top, ast.FunctionDef | ast.ClassDef)
        for part in ast.walk(top)
        if isinstance(part, ast.Name)
    }
    read = {
        o.name
        for o in seen
        if isinstance(o.node, ast.Name)
        and isinstance(o.node.ctx, ast.Load)
        and o.owner is not None
        and o.owner.kind == "module"
        and inside.get(id(o.node)) != o.name  # a call of itself does not keep a function
    } | keep
    idle = {
        n.name
        for n in tree.body
        if isinstance(n, ast.FunctionDef) and all(isinstance(b, ast.Pass) for b in n.body)
    }
    _DropCalls(idle).visit(tree)
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [a for a in node.names if (a.asname or a.name) in read]
            if node.names:
                body.append(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name in read:
                body.append(node)
        elif not (
            isinstance(node, ast.Assign)
            and all(isinstance(t, ast.Name) and t.id not in read for t in node.targets)
        ):
            body.append(node)
    tree.body = body
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [
                b
                for b in node.body
                if not isinstance(b, ast.FunctionDef)
                or (b.name.startswith("__") and not _is_idle(b))
                or b.name in attributes
            ] or [ast.Pass()]


class _DropCalls(ast.NodeTransformer):
    """Calls of functions that do nothing become `pass`."""

    def __init__(self, idle: set[str]) -> None:
        self.idle = idle

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        name = getattr(getattr(node.value, "func", None), "id", "")
        return ast.Pass() if name in self.idle else node


def _drop_arguments(tree: ast.Module, keep: frozenset[str]) -> None:
    """Arguments of global functions that they do not read, where every use is a plain call."""
    calls, other = _calls(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name in keep or node.name in other:
            continue
        a = node.args
        if a.vararg or a.kwarg or a.posonlyargs or a.kwonlyargs:
            continue
        loaded = {n.id for b in node.body for n in ast.walk(b) if isinstance(n, ast.Name)}
        while a.defaults and a.args[-1].arg not in loaded and all(
            len(c.args) < len(a.args) and not c.keywords for c in calls.get(node.name, [])
        ):
            a.args.pop()
            a.defaults.pop()
        if a.defaults:
            continue
        for i in reversed(range(len(a.args))):
            if a.args[i].arg in loaded:
                continue
            places = calls.get(node.name, [])
            if all(len(c.args) > i and not c.keywords and _is_plain(c.args[i]) for c in places):
                del a.args[i]
                for c in places:
                    del c.args[i]


def _calls(tree: ast.Module) -> tuple[dict[str, list[ast.Call]], set[str]]:
    """Calls of global names, and the names that are used otherwise, too."""
    calls: dict[str, list[ast.Call]] = {}
    called: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            calls.setdefault(node.func.id, []).append(node)
            called.add(id(node.func))
    other = {
        n.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Name) and (id(n) not in called or not isinstance(n.ctx, ast.Load))
    }
    starred = {n for n, cs in calls.items() for c in cs if any(isinstance(x, ast.Starred) for x in c.args)}
    return calls, other | starred


def _is_plain(node: ast.expr) -> bool:
    """Whether an expression does nothing but give a value."""
    allowed = (
        ast.Name, ast.Constant, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.BinOp,
        ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Slice, ast.expr_context, ast.operator,
        ast.unaryop, ast.cmpop, ast.boolop, ast.JoinedStr, ast.FormattedValue,
    )  # fmt: skip
    return all(isinstance(part, allowed) for part in ast.walk(node))


# --- what is put where it is used ----------------------------------------------------------------------


def _put_constants(tree: ast.Module, keep: frozenset[str]) -> None:
    """Global names of literals, where they stand for them."""
    seen = occurrences(tree)
    bound: Counter[str] = Counter()
    for o in seen:
        owner = o.owner
        if owner is not None and owner.kind == "module" and not _is_load(o.node):
            bound[o.name] += 1
    values: dict[str, ast.expr] = {}
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(id=name)], ast.expr() as value) if (
                bound[name] == 1 and name not in keep and _is_literal(value)
            ):
                values[name] = value
    replaced = {
        id(o.node): values[o.name]
        for o in seen
        if o.name in values and _is_load(o.node) and _is_global(o.owner)
    }
    _Replace(replaced).visit(tree)


def _is_load(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _is_global(owner: Scope | None) -> bool:
    return owner is not None and owner.kind == "module"


def _is_literal(value: ast.expr) -> bool:
    """A short literal: not longer than what naming it costs."""
    text = ast.unparse(value)
    plain = all(
        isinstance(p, ast.Constant | ast.BinOp | ast.operator | ast.UnaryOp | ast.unaryop)
        for p in ast.walk(value)
    )
    return plain and len(text) <= 9


class _Replace(ast.NodeTransformer):
    """Puts expressions for nodes."""

    def __init__(self, by: dict[int, ast.expr]) -> None:
        self.by = by

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.by.get(id(node), node)


def _put_calls(tree: ast.Module, keep: frozenset[str]) -> None:
    """Functions of one `return`, called once, where they are called."""
    calls, other = _calls(tree)
    scopes = {id(o.node): o for o in occurrences(tree)}
    at = {id(part): top for top in tree.body for part in ast.walk(top) if isinstance(part, ast.Call)}
    moved: set[int] = set()
    for node in list(tree.body):
        if not isinstance(node, ast.FunctionDef) or node.name in keep or node.name in other:
            continue
        places = calls.get(node.name, [])
        if len(places) != 1 or node.decorator_list or not isinstance(node.body[0], ast.Return):
            continue
        call, value, a = places[0], node.body[0].value, node.args
        if id(at[id(call)]) in moved or id(node) in moved:
            continue  # where it stands now is seen in the next round
        names = [x.arg for x in a.args]
        rest = a.vararg or a.kwarg or a.posonlyargs or a.kwonlyargs or a.defaults
        if rest or value is None or call.keywords or len(call.args) != len(names):
            continue
        if not _can_be_put(value, dict(zip(names, call.args, strict=True)), scopes, call):
            continue
        by = {
            id(n): arg
            for n in ast.walk(value)
            if isinstance(n, ast.Name)
            for name, arg in zip(names, call.args, strict=True)
            if n.id == name
        }
        _Swap(call, _Replace(by).visit(value)).visit(tree)
        tree.body.remove(node)
        moved |= {id(node), id(at[id(call)])}


def _can_be_put(
    value: ast.expr, given: dict[str, ast.expr], scopes: dict[int, Any], call: ast.Call
) -> bool:
    """Whether an expression means the same at its call: no name is caught, nothing is done twice."""
    inner = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.NamedExpr)
    parts = list(ast.walk(value))
    own = {p.id for p in parts if isinstance(p, ast.Name) and not _is_load(p)}
    own |= {x.arg for p in parts if isinstance(p, ast.Lambda) for x in p.args.args}
    uses = Counter(p.id for p in parts if isinstance(p, ast.Name) and p.id in given)
    if own & set(given):
        return False
    for name, arg in given.items():
        free = {n.id for n in ast.walk(arg) if isinstance(n, ast.Name)}
        if free & own:
            return False
        simple = isinstance(arg, ast.Name | ast.Constant)
        if not simple and (uses[name] != 1 or any(isinstance(p, inner) for p in parts)):
            return False
    where = scopes[id(call.func)].scope
    local = set[str]().union(*(s.bound for s in where.around() if s.kind != "module"))
    free = {p.id for p in parts if isinstance(p, ast.Name)} - own - set(given)
    return not free & local


class _Swap(ast.NodeTransformer):
    """Puts an expression for a call."""

    def __init__(self, call: ast.Call, value: ast.expr) -> None:
        self.call, self.value = call, value

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.value if node is self.call else self.generic_visit(node)


# --- locals and fields ---------------------------------------------------------------------------------

# What a call of one of these does cannot be left out, or done later.
_DOES = {"pop", "append", "take", "setdefault", "update", "next", "check_finished", "decode"}
_REPEATED = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)


def _is_idle_value(node: ast.expr) -> bool:
    """Whether nothing but a value comes of an expression, as far as names tell."""
    for part in ast.walk(node):
        if isinstance(part, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr):
            return False
        if isinstance(part, ast.Call):
            name = getattr(part.func, "id", getattr(part.func, "attr", ""))
            if name in _DOES or name.startswith("_"):
                return False
    return True


def _drop_fields(tree: ast.Module, keep: frozenset[str]) -> None:
    """Fields of dataclasses that nothing reads, and what is given for them."""
    del keep
    calls, other = _calls(tree)
    read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _loads(n)}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name in other:
            continue
        if not any(getattr(d, "id", "") == "dataclass" for d in node.decorator_list):
            continue
        fields = [b for b in node.body if isinstance(b, ast.AnnAssign)]
        places = calls.get(node.name, [])
        makes_itself = any(isinstance(n, ast.Name) and n.id == "cls" for n in ast.walk(node))
        if makes_itself or any(c.keywords for c in places):
            continue
        for i in reversed(range(len(fields))):
            given = [c.args[i] for c in places if len(c.args) > i]
            unread = isinstance(fields[i].target, ast.Name) and fields[i].target.id not in read
            if unread and all(_is_idle_value(g) for g in given):
                node.body.remove(fields[i])
                for c in places:
                    del c.args[i : i + 1]
        node.body = node.body or [ast.Pass()]


def _loads(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def _put_locals(tree: ast.Module, keep: frozenset[str]) -> None:
    """Locals that are read once, in the next statement, go there; those never read go altogether."""
    del keep
    for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        stored = Counter(n.id for n in names if not _is_load(n))
        loaded = Counter(n.id for n in names if _is_load(n))
        arguments = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
        once = {n for n in stored if stored[n] == 1 and n not in arguments}
        for holder in ast.walk(function):
            for block in (getattr(holder, "body", None), getattr(holder, "orelse", None)):
                if isinstance(block, list):
                    _put_in_block(block, once, loaded)


def _put_in_block(block: list[ast.stmt], once: set[str], loaded: Counter[str]) -> None:
    for i in reversed(range(len(block) - 1)):
        match block[i]:
            case ast.Assign([ast.Name(id=name)], value) if name in once:
                if not loaded[name] and _is_idle_value(value):
                    del block[i]
                elif loaded[name] == 1 and (place := _place(block[i + 1], name, value)) is not None:
                    _Replace({id(place): value}).visit(block[i + 1])
                    del block[i]
            case _:
                pass


def _place(statement: ast.stmt, name: str, value: ast.expr) -> ast.Name | None:
    """Where a statement reads a local, if the value can as well be worked out there."""
    match statement:
        case ast.Return(ast.expr() as inside) | ast.Expr(inside):
            pass
        case ast.Assign([ast.Name() | ast.Tuple()], inside) | ast.AugAssign(ast.Name(), _, inside):
            pass
        case ast.For(iter=inside) | ast.If(test=inside):
            pass
        case _:
            return None
    repeated = {
        id(p) for n in ast.walk(inside) if isinstance(n, _REPEATED) for p in ast.walk(n)
    }
    for part in ast.walk(inside):
        if isinstance(part, ast.Name) and part.id == name and id(part) not in repeated:
            both = _is_idle_value(value) or _is_idle_value(inside)
            return part if both else None
    return None


_CHANGES = (
    _drop_unused, _put_constants, _drop_arguments, _drop_fields, _put_locals, _put_calls,
)  # fmt: skip
