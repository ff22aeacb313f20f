"""The text of a bundle: definitions in order, under names of their own, with the imports they need."""

import ast
import builtins
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from golfpack.export.edits import first_line
from golfpack.export.modules import Mention, Module, Modules, Symbol, Unit, mentioned
from golfpack.export.shake import Shake

_WIDTH = 100
_MARKS = re.compile(r"  # (fmt: skip|type: ignore|noqa|pyright:).*$", re.MULTILINE)


def emit(modules: Modules, shake: Shake, annotations: Collection[tuple[Module, ast.AST]]) -> str:
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


def _ordered(modules: Modules, shake: Shake) -> list[str]:
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
    modules: Modules,
    shake: Shake,
    module: Module,
    annotations: Collection[tuple[Module, ast.AST]],
) -> list[Mention]:
    kept = [
        node
        for unit in module.units
        if unit in shake.units
        for node in shake.walk(module, unit.node)
    ]
    kept += [node for m, told in annotations if m is module for node in ast.walk(told)]
    return list(mentioned(modules, module, kept))


def _names(
    shake: Shake, order: list[str], mentions: Mapping[str, list[Mention]]
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


def _imports(shake: Shake, names: Mapping[Symbol, str]) -> str:
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
    modules: Modules,
    shake: Shake,
    module: Module,
    mentions: list[Mention],
    names: Mapping[Symbol, str],
) -> None:
    """Make the changes that a module's statements need in the bundle."""
    text = module.text
    formatted = module.source.formatted
    strings: dict[int, ast.JoinedStr] = {}
    inside: dict[int, str] = {}
    for m in mentions:
        name = names[m.symbol]
        if isinstance(m.node, ast.Name) and m.node.id == name:
            continue
        if id(m.seen.node) in formatted:
            outer = formatted[id(m.seen.node)]
            inside[id(m.node)] = name
            strings[id(outer)] = outer
        else:
            text.replace(*text.span(m.node), name)
    for outer in strings.values():
        text.replace(*text.span(outer), ast.unparse(_renamed(outer, inside)))
    for unit in module.units:
        if unit in shake.units:
            _edit_definition(modules, unit, names)
            _edit_methods(shake, unit)
    _edit_imports(modules, module)


def _edit_definition(modules: Modules, unit: Unit, names: Mapping[Symbol, str]) -> None:
    """Give a function or class its name in the bundle."""
    node, text = unit.node, unit.module.text
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return
    name = names[modules.resolve(unit.module.name, node.name)]
    if name != node.name:
        start = text.span(node)[0]
        at = start + len("def " if isinstance(node, ast.FunctionDef) else "class ")
        text.replace(at, at + len(node.name.encode()), name)


def _edit_methods(shake: Shake, unit: Unit) -> None:
    """Take out the methods that nothing uses."""
    text = unit.module.text
    for node in unit.classes:
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


def _edit_annotations(module: Module, told: Collection[int]) -> None:
    """Take out the annotations that are not told; fields of classes need one: `object`."""
    text = module.text
    classes = itertools.chain.from_iterable(module.source.classes.values())
    fields = {id(part) for node in classes for part in node.body}
    for node, what in module.source.annotated:
        if id(what) in told:
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


def _edit_imports(modules: Modules, module: Module) -> None:
    """Take out imports of our own modules from within functions."""
    text = module.text
    for node in module.source.every:
        if not isinstance(node, ast.FunctionDef | ast.If | ast.With | ast.Try):
            continue
        for block in (node.body, getattr(node, "orelse", [])):
            for part in block:
                if isinstance(part, ast.Import | ast.ImportFrom) and _of_ours(modules, part):
                    alone = len(block) == 1
                    assert part.end_lineno is not None
                    start, end = text.line_start(part.lineno), text.line_start(part.end_lineno + 1)
                    text.replace(start, end, " " * part.col_offset + "pass\n" if alone else "")


def _of_ours(modules: Modules, node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return modules.ours(str(node.module))
    return any(modules.ours(a.name) for a in node.names)


def _renamed(node: Any, names: Mapping[int, str]) -> Any:
    """A copy of a tree with names in the place of nodes, by their ids; the tree is others', too."""
    if isinstance(node, list):
        return [_renamed(part, names) for part in node]
    if not isinstance(node, ast.AST):
        return node
    if id(node) in names:
        return ast.Name(names[id(node)], ast.Load())
    return type(node)(**{field: _renamed(part, names) for field, part in ast.iter_fields(node)})
