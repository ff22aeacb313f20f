"""What some names need: the shaker follows them from definition to definition."""

import ast
from collections.abc import Iterator

from golfpack.errors import UsageError
from golfpack.export.modules import Module, Modules, Symbol, Unit, annotation, mentioned


class Shake:
    """Follows names from the entries.

    Attributes:
        needed: symbols in use.
        units: statements that are kept.
        left: methods that are not, by id of their nodes.
        wanted: names for symbols, by entry.
    """

    def __init__(self, modules: Modules, called: frozenset[str]) -> None:
        self.modules = modules
        self.needed: dict[Symbol, None] = {}
        self.units: dict[Unit, None] = {}
        self.wanted: dict[Symbol, str] = {}
        self.left: dict[int, ast.FunctionDef] = {}
        self._methods: dict[str, list[tuple[Module, ast.FunctionDef]]] = {}
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

    def _unit(self, unit: Unit) -> None:
        for node in unit.classes:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not _is_dunder(method.name):
                    self.left[id(method)] = method
                    self._methods.setdefault(method.name, []).append((unit.module, method))
        self._nodes(unit.module, unit.node)
        for name in list(self._methods):
            if name in self._attributes:
                self._keep(name)

    def _nodes(self, module: Module, node: ast.AST) -> None:
        for part in self.walk(module, node):
            if isinstance(part, ast.Attribute):
                self._attributes.add(part.attr)
                self._keep(part.attr)
            elif isinstance(part, ast.Call) and getattr(part.func, "id", "") == "getattr":
                names = [a.value for a in part.args if isinstance(a, ast.Constant)]
                for name in names:
                    self._attributes.add(str(name))
                    self._keep(str(name))
        for found in mentioned(self.modules, module, self.walk(module, node)):
            self.need(found.symbol)

    def annotated(self) -> list[tuple[Module, ast.AST]]:
        """Nodes whose annotation can stay: all names of ours in it are needed anyway.

        What they need from outside is needed from now on.
        """
        kept: list[tuple[Module, ast.AST]] = []
        for unit in list(self.units):
            for node in self.walk(unit.module, unit.node):
                told = annotation(node)
                if told is None:
                    continue
                inside = mentioned(self.modules, unit.module, ast.walk(told))
                found = [m.symbol for m in inside]
                if all(s.statement or s in self.needed for s in found) and not _is_quoted(told):
                    kept.append((unit.module, told))
                    for symbol in found:
                        self.need(symbol)
        return kept

    def walk(self, module: Module, node: ast.AST) -> Iterator[ast.AST]:
        """A node and all beneath it, but for methods that are not needed and for annotations."""
        ahead = [node]
        while ahead:
            node = ahead.pop()
            yield node
            ahead += [
                c for c in reversed(module.source.children[id(node)]) if id(c) not in self.left
            ]

    def _keep(self, name: str) -> None:
        for module, method in self._methods.pop(name, []):
            del self.left[id(method)]
            self._nodes(module, method)


def _is_quoted(told: ast.expr) -> bool:
    """Whether an annotation is a text: dataclasses then look for a module that may not be there."""
    return any(isinstance(p, ast.Constant) and isinstance(p.value, str) for p in ast.walk(told))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
