"""The modules of a package as a bundle reads them: what each defines, imports and mentions."""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.export.edits import Text, first_line
from golfpack.export.fold import fold
from golfpack.export.scopes import Occurrence, Scope, occurrences


@dataclass(frozen=True)
class Known:
    """What is known of what a bundle will be used for, and so what it can do without.

    A key with "golfpack.a.b:" in front means that module's text alone.

    Attributes:
        values: expression -> its value: {"cfg.tied": True, "golfpack.a.b:LIMIT": 3}. See `fold`.
        only: "module:TABLE" -> the keys of that table to keep. The table is written as a display of keys
            and values, or as a comprehension over a tuple of names.
        instead: "module:name" -> the source of a function, class or assignment that stands in its place;
            its names are those of that module.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Collection[Any]] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Symbol:
    """A name of a module: of ours, or (`statement`) what an import from outside binds."""

    module: str
    name: str
    statement: str = ""


@dataclass(frozen=True, eq=False)
class Mention:
    """A place where a symbol is used.

    Attributes:
        symbol: it.
        node: what the bundle writes its name for: a Name, or an Attribute of a module of ours.
        seen: the name in it.
    """

    symbol: Symbol
    node: ast.expr
    seen: Occurrence


@dataclass(eq=False)
class Unit:
    """A statement at the top level of a module, with the comments above it."""

    module: "Module"
    node: ast.stmt
    names: frozenset[str]

    @property
    def classes(self) -> list[ast.ClassDef]:
        return self.module.source.classes[id(self.node)]

    @property
    def span(self) -> tuple[int, int]:
        text = self.module.text
        assert self.node.end_lineno is not None
        first = text.comments_above(first_line(self.node))
        return text.line_start(first), text.line_start(self.node.end_lineno + 1)


class Source:
    """A module's text as it was parsed: bundles share it, so none of them may change its tree.

    Attributes:
        seen: its names; every: its nodes.
        children: the nodes directly beneath one, by its id, without its annotation.
        annotated: nodes with an annotation, and it.
        formatted: the f-string that a node stands in, by the node's id: nothing in it has a true place
            before Python 3.12.
        names: where names stand, by the ids of their nodes.
        holders: the attribute that is read of a name, by the id of the name's node.
        bound: what a statement at the top level binds, by its id.
        classes: the classes in it, by the same.
    """

    def __init__(self, text: str) -> None:
        self.text, self.tree = text, ast.parse(text)
        self.seen = occurrences(self.tree)
        self.every: list[ast.AST] = [self.tree]
        self.children: dict[int, list[ast.AST]] = {}
        self.annotated: list[tuple[ast.AST, ast.expr]] = []
        self.formatted: dict[int, ast.JoinedStr] = {}
        for node in self.every:  # which grows meanwhile
            beneath = list(ast.iter_child_nodes(node))
            self.every += beneath
            if (told := annotation(node)) is not None:
                self.annotated.append((node, told))
                beneath.remove(told)
            self.children[id(node)] = beneath
            if isinstance(node, ast.JoinedStr) and id(node) not in self.formatted:
                self.formatted |= {id(part): node for part in ast.walk(node)}
        self.names = {id(o.node): o for o in self.seen if isinstance(o.node, ast.Name)}
        self.holders = {
            id(n.value): n
            for n in self.every
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        }
        self.bound = {id(node): frozenset(_bound(node)) for node in self.tree.body}
        self.classes = {
            id(node): [part for part in ast.walk(node) if isinstance(part, ast.ClassDef)]
            for node in self.tree.body
        }


@lru_cache(maxsize=128)  # some 100 MB, and a few bundles' modules
def _parsed(text: str) -> Source:
    return Source(text)


class Module:
    """A module's text, what it imports and what it defines."""

    def __init__(self, name: str, source: Source, modules: "Modules") -> None:
        self.name, self.source = name, source
        self.text = Text(source.text, source.tree)
        self.local = _function_imports(modules, source)
        self.mentions: dict[int, Mention | None] = {}
        self.imports: dict[str, Symbol] = {}
        self.first_imports: list[str] = []
        self.units: list[Unit] = []
        for node in source.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = modules.imported(node)
                self.imports |= found
                self.first_imports += [s.module for s in found.values() if not s.statement]
            elif not _is_type_checking(node):
                self.units.append(Unit(self, node, source.bound[id(node)]))
        self.defined = {n for unit in self.units for n in unit.names}


@cache
def _spec(name: str) -> ModuleSpec | None:
    return find_spec(name)


class Modules:
    """The modules of the package, read when they are first asked for."""

    def __init__(self, root: str, known: Known) -> None:
        self.root, self.known = root, known
        self.found: dict[str, Module] = {}
        for target in (*known.only, *known.instead):
            self.resolve(*parted(target))

    def ours(self, name: str) -> bool:
        return name == self.root or name.startswith(f"{self.root}.")

    def __getitem__(self, name: str) -> Module:
        if name not in self.found:
            spec = _spec(name)
            if spec is None or spec.origin is None:
                raise UsageError(f"there is no module {name}", "check its name")
            source = Path(spec.origin).read_text(encoding="utf-8")
            self.found[name] = Module(name, _parsed(self._prepared(name, source)), self)
        return self.found[name]

    def _prepared(self, name: str, source: str) -> str:
        """A module's text with what is known of it worked in."""
        for target, text in self.known.instead.items():
            if target.startswith(f"{name}:"):
                source = _with_instead(source, target.partition(":")[2], text)
        for target, keys in self.known.only.items():
            if target.startswith(f"{name}:"):
                source = _with_only(source, name, target.partition(":")[2], keys)
        values = self._values(name, source)
        return fold(source, values) if values else source

    def _values(self, name: str, source: str) -> dict[str, Any]:
        """The known expressions of a module, those of other modules under the names it gives them."""
        values: dict[str, Any] = {}
        for key, value in self.known.values.items():
            module, colon, text = key.partition(":")
            if not colon or not self.ours(module):
                values[key] = value
            elif module == name:
                values[text] = value
            elif text.isidentifier():
                values |= dict.fromkeys(_as_imported(source, module, text), value)
        return values

    def imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, Symbol]:
        """What an import statement binds; of a module of ours, a Symbol with an empty name."""
        found: dict[str, Symbol] = {}
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                if node.level or alias.name == "*":
                    raise UsageError("`import *` and relative imports cannot be bundled", None)
                found[alias.asname or alias.name] = self._from(str(node.module), alias)
            elif self.ours(alias.name):
                if alias.asname is None:
                    raise UsageError(f"import {alias.name}: give it a short name", "use `as`")
                found[alias.asname] = Symbol(alias.name, "")
            else:
                bound = alias.asname or alias.name.partition(".")[0]
                found[bound] = Symbol(alias.name, bound, ast.unparse(ast.Import([alias])))
        return found

    def _from(self, module: str, alias: ast.alias) -> Symbol:
        if not self.ours(module):
            name = alias.asname or alias.name
            return Symbol(module, name, ast.unparse(ast.ImportFrom(module, [alias], 0)))
        if (spec := _spec(module)) and spec.submodule_search_locations:
            inner = f"{module}.{alias.name}"
            if _spec(inner) is not None:
                return Symbol(inner, "")
        return Symbol(module, alias.name)

    def resolve(self, module: str, name: str) -> Symbol:
        """The symbol a name of a module stands for, through whatever re-exports it.

        Raises:
            UsageError: the module has no such name.
        """
        found = self[module]
        if name in found.defined:
            return Symbol(module, name)
        if name not in found.imports:
            raise UsageError(f"module {module} defines no {name!r}", "check the name")
        target = found.imports[name]
        if target.statement or not target.name:
            return target
        return self.resolve(target.module, target.name)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _bound(node: ast.stmt) -> Iterator[str]:
    """What a top-level statement binds or changes (a table, as `T[x] = y` and `T.update(y)` do)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            yield part.id
        elif (
            isinstance(part, ast.Subscript | ast.Attribute)
            and isinstance(part.value, ast.Name)
            and (not isinstance(part.ctx, ast.Load) or isinstance(node, ast.Expr))
        ):
            yield part.value.id


def _as_imported(source: str, module: str, name: str) -> Iterator[str]:
    for of, imported, bound in _import_froms(source):
        if (of, imported) == (module, name):
            yield bound


@cache
def _import_froms(source: str) -> tuple[tuple[str | None, str, str], ...]:
    """What a text imports from modules: the module, the name there and the name here."""
    return tuple(
        (node.module, alias.name, alias.asname or alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )


def _definition(text: Text, name: str) -> ast.stmt:
    for node in text.tree.body:
        if name in _bound(node) and not isinstance(node, ast.Expr):
            return node
    raise UsageError(f"no definition of {name!r} to replace", "check the name")


def _with_instead(source: str, name: str, replacement: str) -> str:
    text = Text(source)
    node = _definition(text, name)
    assert node.end_lineno is not None
    start, end = text.line_start(first_line(node)), text.line_start(node.end_lineno + 1)
    text.replace(start, end, replacement.strip("\n") + "\n")
    return text.changed()


def _with_only(source: str, module: str, name: str, keys: Collection[Any]) -> str:
    """A table cut down to some of its keys."""
    text = Text(source)
    node = _definition(text, name)
    value = getattr(node, "value", None)
    live = vars(import_module(module))
    if missing := [k for k in keys if k not in live[name]]:
        raise UsageError(f"{module}:{name} has no {missing[0]!r}", f"it has {list(live[name])}")
    match value:
        case ast.Dict():
            pairs = [
                f"{text.of(k)}: {text.of(v)}"
                for k, v in zip(value.keys, value.values, strict=True)
                if k is not None and eval(ast.unparse(k), live) in keys
            ]
            text.replace(*text.span(value), "{" + ", ".join(pairs) + "}")
        case ast.DictComp(generators=[ast.comprehension(iter=ast.Tuple() | ast.List() as of)]):
            kept = [live[name][key] for key in keys]
            names = [n for n in map(text.of, of.elts) if eval(n, live) in kept]
            text.replace(*text.span(of), "(" + "".join(f"{n}, " for n in names).rstrip() + ")")
        case _:
            raise UsageError(f"{module}:{name} is no table that can be cut down", None)
    return text.changed()


def mentioned(modules: Modules, module: Module, nodes: Iterable[ast.AST]) -> Iterator[Mention]:
    """What nodes of a module mention of symbols."""
    for node in nodes:
        seen = module.source.names.get(id(node))
        if seen is None:
            continue
        if id(node) not in module.mentions:
            module.mentions[id(node)] = _mention(modules, module, seen)
        found = module.mentions[id(node)]
        if found is not None:
            yield found


def _mention(modules: Modules, module: Module, seen: Occurrence) -> Mention | None:
    symbol = _meant(modules, module, seen)
    if symbol is None:
        return None
    assert isinstance(seen.node, ast.Name)
    if symbol.statement or symbol.name:
        return Mention(symbol, seen.node, seen)
    holder = module.source.holders.get(id(seen.node))  # a module of ours: what is read of it
    if holder is None:
        raise UsageError(f"{module.name} uses module {symbol.module} as a value", None)
    return Mention(modules.resolve(symbol.module, holder.attr), holder, seen)


def _meant(modules: Modules, module: Module, seen: Occurrence) -> Symbol | None:
    """The symbol that a name stands for; None for what a function has of its own, and for builtins."""
    scope = seen.owner
    if scope is None:
        return None
    if scope.kind == "module":
        known = seen.name in module.defined or seen.name in module.imports
        return modules.resolve(module.name, seen.name) if known else None
    symbol = module.local.get((scope, seen.name))
    if symbol is None or symbol.statement:
        return None
    return modules.resolve(symbol.module, symbol.name) if symbol.name else symbol


def _function_imports(modules: Modules, source: Source) -> dict[tuple[Scope, str], Symbol]:
    """What imports within functions bind, by scope and name."""
    parents = {
        id(alias): node
        for node in source.every
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    found: dict[tuple[Scope, str], Symbol] = {}
    for o in source.seen:
        if isinstance(o.node, ast.alias) and o.scope.kind == "function":
            found[o.scope, o.name] = modules.imported(parents[id(o.node)])[o.name]
    return found


def annotation(node: ast.AST) -> ast.expr | None:
    """The annotation of an argument, a variable, or what a function returns."""
    match node:
        case ast.FunctionDef():
            return node.returns
        case ast.arg() | ast.AnnAssign():
            return node.annotation
        case _:
            return None


def parted(target: str) -> tuple[str, str]:
    module, colon, name = target.partition(":")
    if not colon:
        raise UsageError(f"{target!r} names no definition", "write module:name")
    return module, name
