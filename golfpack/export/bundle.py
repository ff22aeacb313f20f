"""One module out of many: what some names need, from the modules of a package, as readable source.

The shaker starts at entry points and follows names. Of a class it keeps the methods whose names are
used somewhere in what it keeps. Branches whose condition is known are left out first, and so is what
only they need. Nothing is executed but the keys of tables that are cut down.
"""

import ast
import builtins
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.export.edits import Text, first_line
from golfpack.export.fold import fold
from golfpack.export.scopes import Occurrence, Scope, occurrences

# Methods that libraries call by their names.
CALLED_FROM_OUTSIDE = frozenset({"forward", "backward", "setup_context"})
_WIDTH = 100
_MARKS = re.compile(r"  # (fmt: skip|type: ignore|noqa|pyright:).*$", re.MULTILINE)


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


NOTHING = Known()


def bundle(
    entries: Mapping[str, str],
    *,
    known: Known = NOTHING,
    annotations: bool = True,
    called: Collection[str] = CALLED_FROM_OUTSIDE,
    root: str = "golfpack",
) -> str:
    """The source of one module that holds the entries and all that they need.

    Definitions keep their text, comments and docstrings, module by module, each module after those it
    imports. Names that clash take their module's name in front. Imports from outside the package stand
    at the top, or where they stood within functions.

    Args:
        entries: name in the bundle -> "module:name" of a function, class or constant.
        known: what may be left out.
        annotations: keep those that name nothing which is not needed anyway. Without one, a field of a
            dataclass is an `object`.
        called: names of methods that are kept though nothing in the bundle mentions them.
        root: the package whose modules are bundled; all others are imported.

    Raises:
        UsageError: a name that is nowhere, a table that cannot be cut down, or code that cannot be
            bundled: `import *`, a module used as a value.
    """
    modules = _Modules(root, known)
    shake = _Shake(modules, frozenset(called))
    for name, target in entries.items():
        shake.entry(name, modules.resolve(*_parted(target)))
    return _emit(modules, shake, shake.annotated() if annotations else [])


def _parted(target: str) -> tuple[str, str]:
    module, colon, name = target.partition(":")
    if not colon:
        raise UsageError(f"{target!r} names no definition", "write module:name")
    return module, name


# --- modules -------------------------------------------------------------------------------------------


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
class _Unit:
    """A statement at the top level of a module, with the comments above it."""

    module: "_Module"
    node: ast.stmt
    names: frozenset[str]

    @property
    def span(self) -> tuple[int, int]:
        text = self.module.text
        assert self.node.end_lineno is not None
        first = text.comments_above(first_line(self.node))
        return text.line_start(first), text.line_start(self.node.end_lineno + 1)


class _Module:
    """A module's text, what it imports and what it defines."""

    def __init__(self, name: str, source: str, modules: "_Modules") -> None:
        self.name = name
        self.text = Text(source)
        self.doc = ast.get_docstring(self.text.tree) or ""
        seen = occurrences(self.text.tree)
        every = list(ast.walk(self.text.tree))
        self.names = {id(o.node): o for o in seen if isinstance(o.node, ast.Name)}
        self.holders = {
            id(n.value): n
            for n in every
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        }
        self.local = _function_imports(modules, seen, every)
        self.mentions: dict[int, Mention | None] = {}
        self.imports: dict[str, Symbol] = {}
        self.first_imports: list[str] = []
        self.units: list[_Unit] = []
        for node in self.text.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = modules.imported(node)
                self.imports |= found
                self.first_imports += [s.module for s in found.values() if not s.statement]
            elif not _is_type_checking(node):
                self.units.append(_Unit(self, node, frozenset(_bound(node))))
        self.defined = {n for unit in self.units for n in unit.names}


@cache
def _spec(name: str) -> ModuleSpec | None:
    return find_spec(name)


class _Modules:
    """The modules of the package, read when they are first asked for."""

    def __init__(self, root: str, known: Known) -> None:
        self.root, self.known = root, known
        self.found: dict[str, _Module] = {}
        for target in (*known.only, *known.instead):
            self.resolve(*_parted(target))

    def ours(self, name: str) -> bool:
        return name == self.root or name.startswith(f"{self.root}.")

    def __getitem__(self, name: str) -> _Module:
        if name not in self.found:
            spec = _spec(name)
            if spec is None or spec.origin is None:
                raise UsageError(f"there is no module {name}", "check its name")
            source = Path(spec.origin).read_text(encoding="utf-8")
            self.found[name] = _Module(name, self._prepared(name, source), self)
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


# --- what is needed ------------------------------------------------------------------------------------


class _Shake:
    """Follows names from the entries.

    Attributes:
        needed: symbols in use.
        units: statements that are kept.
        left: methods that are not, by id of their nodes.
        wanted: names for symbols, by entry.
    """

    def __init__(self, modules: _Modules, called: frozenset[str]) -> None:
        self.modules = modules
        self.needed: dict[Symbol, None] = {}
        self.units: dict[_Unit, None] = {}
        self.wanted: dict[Symbol, str] = {}
        self.left: dict[int, ast.FunctionDef] = {}
        self._methods: dict[str, list[tuple[_Module, ast.FunctionDef]]] = {}
        self._attributes = set(called)

    def entry(self, name: str, symbol: Symbol) -> None:
        self.wanted[symbol] = name
        self.need(symbol)

    def need(self, symbol: Symbol) -> None:
        if symbol in self.needed:
            return
        self.needed[symbol] = None
        if symbol.statement:
            return
        if not symbol.name:
            raise UsageError(f"module {symbol.module} is used as a value", "import what it holds")
        module = self.modules[symbol.module]
        for unit in module.units:
            if symbol.name in unit.names and unit not in self.units:
                self.units[unit] = None
                self._unit(unit)

    def _unit(self, unit: _Unit) -> None:
        for node in ast.walk(unit.node):
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not _is_dunder(method.name):
                        self.left[id(method)] = method
                        self._methods.setdefault(method.name, []).append((unit.module, method))
        self._nodes(unit.module, unit.node)
        for name in list(self._methods):
            if name in self._attributes:
                self._keep(name)

    def _nodes(self, module: _Module, node: ast.AST) -> None:
        for part in self.walk(node):
            if isinstance(part, ast.Attribute):
                self._attributes.add(part.attr)
                self._keep(part.attr)
            elif isinstance(part, ast.Call) and getattr(part.func, "id", "") == "getattr":
                names = [a.value for a in part.args if isinstance(a, ast.Constant)]
                for name in names:
                    self._attributes.add(str(name))
                    self._keep(str(name))
        for found in _mentioned(self.modules, module, self.walk(node)):
            self.need(found.symbol)

    def annotated(self) -> list[tuple[_Module, ast.AST]]:
        """Nodes whose annotation can stay: all names of ours in it are needed anyway.

        What they need from outside is needed from now on.
        """
        kept: list[tuple[_Module, ast.AST]] = []
        for unit in list(self.units):
            for node in self.walk(unit.node):
                told = annotation(node)
                if told is None:
                    continue
                inside = _mentioned(self.modules, unit.module, ast.walk(told))
                found = [m.symbol for m in inside]
                if all(s.statement or s in self.needed for s in found) and not _is_quoted(told):
                    kept.append((unit.module, told))
                    for symbol in found:
                        self.need(symbol)
        return kept

    def walk(self, node: ast.AST) -> Iterator[ast.AST]:
        """A node and all beneath it, but for methods that are not needed and for annotations."""
        yield node
        told = annotation(node)
        for child in ast.iter_child_nodes(node):
            if id(child) not in self.left and child is not told:
                yield from self.walk(child)

    def _keep(self, name: str) -> None:
        for module, method in self._methods.pop(name, []):
            del self.left[id(method)]
            self._nodes(module, method)


def annotation(node: ast.AST) -> ast.expr | None:
    """The annotation of an argument, a variable, or what a function returns."""
    match node:
        case ast.FunctionDef():
            return node.returns
        case ast.arg() | ast.AnnAssign():
            return node.annotation
        case _:
            return None


def _is_quoted(told: ast.expr) -> bool:
    """Whether an annotation is a text: dataclasses then look for a module that may not be there."""
    return any(isinstance(p, ast.Constant) and isinstance(p.value, str) for p in ast.walk(told))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _mentioned(modules: _Modules, module: _Module, nodes: Iterable[ast.AST]) -> Iterator[Mention]:
    """What nodes of a module mention of symbols."""
    for node in nodes:
        seen = module.names.get(id(node))
        if seen is None:
            continue
        if id(node) not in module.mentions:
            module.mentions[id(node)] = _mention(modules, module, seen)
        found = module.mentions[id(node)]
        if found is not None:
            yield found


def _mention(modules: _Modules, module: _Module, seen: Occurrence) -> Mention | None:
    symbol = _meant(modules, module, seen)
    if symbol is None:
        return None
    assert isinstance(seen.node, ast.Name)
    if symbol.statement or symbol.name:
        return Mention(symbol, seen.node, seen)
    holder = module.holders.get(id(seen.node))  # a module of ours: what is read of it
    if holder is None:
        raise UsageError(f"{module.name} uses module {symbol.module} as a value", None)
    return Mention(modules.resolve(symbol.module, holder.attr), holder, seen)


def _meant(modules: _Modules, module: _Module, seen: Occurrence) -> Symbol | None:
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


def _function_imports(
    modules: _Modules, seen: Iterable[Occurrence], every: Iterable[ast.AST]
) -> dict[tuple[Scope, str], Symbol]:
    """What imports within functions bind, by scope and name."""
    parents = {
        id(alias): node
        for node in every
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    found: dict[tuple[Scope, str], Symbol] = {}
    for o in seen:
        if isinstance(o.node, ast.alias) and o.scope.kind == "function":
            found[o.scope, o.name] = modules.imported(parents[id(o.node)])[o.name]
    return found


# --- the text ------------------------------------------------------------------------------------------


def _emit(
    modules: _Modules, shake: _Shake, annotations: Collection[tuple[_Module, ast.AST]]
) -> str:
    order = _ordered(modules, shake)
    told = {id(node) for _, node in annotations}
    mentions = {m: _mentions(modules, shake, modules[m], annotations) for m in order}
    names = _names(shake, order, mentions)
    parts = [_imports(shake, names)]
    for name in order:
        module = modules[name]
        units = [u for u in module.units if u in shake.units]
        if not units:
            continue
        _edit(modules, shake, module, mentions[name], names)
        _edit_annotations(module, told)
        title = f"# --- {name.replace('.', '/')}.py "
        texts = [title + "-" * (_WIDTH - len(title)) + "\n"]
        for unit in units:
            block = isinstance(unit.node, ast.FunctionDef | ast.ClassDef)
            texts.append(("\n\n" if block else "") + module.text.changed(*unit.span))
        parts.append(_spaced(texts))
    text = _MARKS.sub("", "\n\n".join(p for p in parts if p))
    ast.parse(text)
    return text


def _spaced(texts: list[str]) -> str:
    """Statements one after the other, two lines around functions and classes, one between others."""
    out = texts[0]
    after_block = True
    for text in texts[1:]:
        block = text.startswith("\n\n")
        body = text.lstrip("\n")
        if block or after_block:
            out = out.rstrip("\n") + ("\n\n\n" if out.count("\n") > 1 or block else "\n\n")
        out += body
        after_block = block
    return out


def _ordered(modules: _Modules, shake: _Shake) -> list[str]:
    """Modules in use, each behind those it imports at its top."""
    used = {u.module.name for u in shake.units}
    order: dict[str, None] = {}
    entered: set[str] = set()

    def enter(name: str) -> None:
        if name in entered:
            return
        entered.add(name)
        for other in modules[name].first_imports:
            enter(other)
        order[name] = None

    for name in sorted(used):
        enter(name)
    return [name for name in order if name in used]


def _mentions(
    modules: _Modules,
    shake: _Shake,
    module: _Module,
    annotations: Collection[tuple[_Module, ast.AST]],
) -> list[Mention]:
    kept = [node for unit in module.units if unit in shake.units for node in shake.walk(unit.node)]
    kept += [node for m, told in annotations if m is module for node in ast.walk(told)]
    return list(_mentioned(modules, module, kept))


def _names(
    shake: _Shake, order: list[str], mentions: Mapping[str, list[Mention]]
) -> dict[Symbol, str]:
    """A name for every symbol: its own, where no other has it and no function's own names hide it."""
    hidden: dict[Symbol, set[str]] = {}
    for found in mentions.values():
        for m in found:
            around = [s for s in m.seen.scope.around() if s.kind != "module"]
            hidden.setdefault(m.symbol, set()).update(*(s.bound for s in around))
    taken = set(shake.wanted.values()) | set(dir(builtins))
    names = dict(shake.wanted)
    outside = sorted((s for s in shake.needed if s.statement), key=lambda s: s.statement)
    imported: dict[str, str] = {}
    for symbol in [*outside, *(s for m in order for s in shake.needed if _is_of(s, m))]:
        if symbol in names:
            continue
        if symbol.statement in imported:  # several modules import it under this name
            names[symbol] = imported[symbol.statement]
            continue
        barred = taken | hidden.get(symbol, set())
        names[symbol] = next(c for c in _candidates(symbol) if c not in barred)
        taken.add(names[symbol])
        if symbol.statement:
            imported[symbol.statement] = names[symbol]
    return names


def _is_of(symbol: Symbol, module: str) -> bool:
    return not symbol.statement and symbol.module == module


def _candidates(symbol: Symbol) -> Iterator[str]:
    """What a symbol may be called, the best first."""
    yield symbol.name
    tail = symbol.module.rpartition(".")[2]
    long = f"_{tail}{symbol.name}" if symbol.name.startswith("_") else f"{tail}_{symbol.name}"
    yield long
    for n in itertools.count(2):
        yield f"{long}_{n}"


def _imports(shake: _Shake, names: Mapping[Symbol, str]) -> str:
    lines: dict[str, None] = {}
    grouped: dict[str, set[str]] = {}
    for symbol in shake.needed:
        if not symbol.statement:
            continue
        node = ast.parse(symbol.statement).body[0]
        assert isinstance(node, ast.Import | ast.ImportFrom)
        alias = node.names[0]
        name = names[symbol]
        told = alias.name if name == alias.name else f"{alias.name} as {name}"
        if isinstance(node, ast.ImportFrom):
            grouped.setdefault(str(node.module), set()).add(told)
        else:
            lines[f"import {told}\n"] = None
    out = sorted(lines)
    out += [f"from {m} import {', '.join(sorted(n))}\n" for m, n in sorted(grouped.items())]
    return "".join(out)


def _edit(
    modules: _Modules,
    shake: _Shake,
    module: _Module,
    mentions: list[Mention],
    names: Mapping[Symbol, str],
) -> None:
    """Make the changes that a module's statements need in the bundle."""
    text = module.text
    formatted = _formatted_strings(text.tree)
    strings: dict[int, ast.JoinedStr] = {}
    for m in mentions:
        name = names[m.symbol]
        if isinstance(m.node, ast.Name) and m.node.id == name:
            continue
        if id(m.seen.node) in formatted:
            outer = formatted[id(m.seen.node)]
            _Put(m.node, name).visit(outer)
            strings[id(outer)] = outer
        else:
            text.replace(*text.span(m.node), name)
    for outer in strings.values():
        text.replace(*text.span(outer), ast.unparse(outer))
    for unit in module.units:
        if unit in shake.units:
            _edit_definition(modules, unit, names)
            _edit_methods(shake, unit)
    _edit_imports(modules, text)


def _edit_definition(modules: _Modules, unit: _Unit, names: Mapping[Symbol, str]) -> None:
    """Give a function or class its name in the bundle."""
    node, text = unit.node, unit.module.text
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return
    name = names[modules.resolve(unit.module.name, node.name)]
    if name != node.name:
        start = text.span(node)[0]
        at = start + len("def " if isinstance(node, ast.FunctionDef) else "class ")
        text.replace(at, at + len(node.name.encode()), name)


def _edit_methods(shake: _Shake, unit: _Unit) -> None:
    """Take out the methods that nothing uses."""
    text = unit.module.text
    for node in ast.walk(unit.node):
        if not isinstance(node, ast.ClassDef):
            continue
        kept = [n for n in node.body if id(n) not in shake.left]
        for method in node.body:
            if id(method) in shake.left:
                assert method.end_lineno is not None
                first = text.comments_above(first_line(method))
                while text.lines(first - 1, first - 1).strip() == "":
                    first -= 1
                start, end = text.line_start(first), text.line_start(method.end_lineno + 1)
                empty = not kept and method is node.body[0]
                text.replace(start, end, " " * method.col_offset + "pass\n" if empty else "")


def _edit_annotations(module: _Module, told: Collection[int]) -> None:
    """Take out the annotations that are not told; fields of classes need one: `object`."""
    text = module.text
    fields = {
        id(part)
        for node in ast.walk(text.tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
    }
    for node in ast.walk(text.tree):
        what = annotation(node)
        if what is None or id(what) in told:
            continue
        start, end = text.span(what)
        match node:
            case ast.arg():
                start = text.span(node)[0] + len(node.arg.encode())
                spaced = text.slice(end, end + 3) == " = "
                text.replace(start, end + 3 * spaced, "=" * spaced)
            case ast.FunctionDef():
                before = text.slice(text.span(node)[0], start)
                arrow = before.rindex("->")
                text.replace(start - len(before[arrow:].encode()) - 1, end, "")
            case ast.AnnAssign():
                if id(node) in fields and "ClassVar" not in ast.dump(what):
                    text.replace(start, end, "object")
                elif node.value is not None:
                    text.replace(text.span(node.target)[1], end, "")
                else:
                    text.replace(*text.span(node), "pass")
            case _:
                pass


def _edit_imports(modules: _Modules, text: Text) -> None:
    """Take out imports of our own modules from within functions."""
    for node in ast.walk(text.tree):
        if not isinstance(node, ast.FunctionDef | ast.If | ast.With | ast.Try):
            continue
        for block in (node.body, getattr(node, "orelse", [])):
            for part in block:
                if isinstance(part, ast.Import | ast.ImportFrom) and _of_ours(modules, part):
                    alone = len(block) == 1
                    assert part.end_lineno is not None
                    start, end = text.line_start(part.lineno), text.line_start(part.end_lineno + 1)
                    text.replace(start, end, " " * part.col_offset + "pass\n" if alone else "")


def _of_ours(modules: _Modules, node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return modules.ours(str(node.module))
    return any(modules.ours(a.name) for a in node.names)


def _formatted_strings(tree: ast.Module) -> dict[int, ast.JoinedStr]:
    """The f-string that a node stands in, by the node's id: nothing in it has a true place in 3.11."""
    found: dict[int, ast.JoinedStr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in found:
            found |= {id(part): node for part in ast.walk(node)}
    return found


class _Put(ast.NodeTransformer):
    """Puts a name in the place of a node."""

    def __init__(self, node: ast.expr, name: str) -> None:
        self.node, self.name = node, name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.name, ast.Load()) if node is self.node else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Name(self.name, ast.Load()) if node is self.node else self.generic_visit(node)
