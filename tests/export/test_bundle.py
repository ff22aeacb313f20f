"""The bundler: one module that does what many did, and holds nothing else."""

import ast
import importlib
import sys
import textwrap

import pytest

from golfpack.errors import UsageError
from golfpack.export.bundle import bundle
from golfpack.export.modules import Known

PACKAGE = {
    "__init__": "",
    "low": """
        '''Low.'''
        import math
        from dataclasses import dataclass
        from typing import ClassVar

        # How far.
        LIMIT = 4
        UNUSED = math.tau
        SEEN = {}
        SEEN["low"] = 1


        def _scale(x: float) -> float:
            return x * math.sqrt(LIMIT)


        @dataclass(frozen=True)
        class Point:
            '''A point.'''

            kind: ClassVar[str] = "point"
            x: int
            y: int = 2

            def size(self) -> float:
                return _scale(self.x + self.y)

            def unused(self) -> float:
                return UNUSED

            @classmethod
            def from_x(cls, x: int) -> "Point":
                return cls(x)
        """,
    "high": """
        from collections.abc import Callable

        from {p} import low as bottom
        from {p}.low import LIMIT, Point


        def _scale(x):
            return bottom._scale(x) + LIMIT


        def _one(p: Point) -> float:
            return p.size()


        def _two(p: Point) -> float:
            from {p}.lazy import dear as costly

            return costly(p.x)


        WAYS: dict[str, Callable] = {{"one": _one, "two": _two}}


        class A:
            name = "a"

        class B:
            name = "b"

        NAMED = {{c.name: c for c in (A, B)}}


        def run(x, way="one", careful=True):
            if careful:
                assert x >= 0
            LIMIT = 10  # its own
            return WAYS[way](bottom.Point.from_x(x)) + _scale(x) + LIMIT, f"{{_scale(x):.1f}}"
        """,
    "lazy": """
        import json


        def dear(x):
            return float(json.dumps(x)) * 100
        """,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    (folder / "bundled_pkg").mkdir()
    for name, text in PACKAGE.items():
        code = textwrap.dedent(text).replace("{p}", "bundled_pkg")
        code = code.replace("{{", "{").replace("}}", "}")
        (folder / "bundled_pkg" / f"{name}.py").write_text(code)
    sys.path.insert(0, str(folder))
    yield "bundled_pkg"
    sys.path.remove(str(folder))


def made(package, entries=None, **options):
    entries = entries or {"run": f"{package}.high:run"}
    source = bundle(entries, root=package, **options)
    space = {"__name__": "made"}
    exec(compile(source, "made", "exec"), space)
    return source, space


def test_a_bundle_does_what_the_package_does(package):
    high = importlib.import_module(f"{package}.high")
    for annotations in (True, False):
        source, space = made(package, annotations=annotations)
        for args in ((3,), (3, "two")):
            assert space["run"](*args) == high.run(*args)
        assert package not in source.replace(f"# --- {package}", "")
        assert "UNUSED" not in source
        assert "def unused" not in source
        assert "# How far.\nLIMIT = 4" in source
        assert (": float" in source) == annotations


def test_what_is_known_leaves_the_rest_out(package):
    known = Known(
        values={f"{package}.high:careful": False, f"{package}.low:LIMIT": 4},
        only={f"{package}.high:WAYS": ["one"], f"{package}.high:NAMED": ["b"]},
        instead={f"{package}.low:_scale": "def _scale(x):\n    return x * 2\n"},
    )
    entries = {"run": f"{package}.high:run", "NAMED": f"{package}.high:NAMED"}
    source, space = made(package, entries, known=known)
    assert space["run"](-1) == importlib.import_module(f"{package}.high").run(-1, careful=False)
    assert space["NAMED"].keys() == {"b"}
    for gone in ("assert", "json", "_two", "class A:", "math", "LIMIT = 4"):
        assert gone not in source


def test_tables_that_are_changed_later_come_whole(package):
    _, space = made(package, {"table": f"{package}.low:SEEN"})
    assert space["table"] == {"low": 1}


def test_what_is_nowhere_is_refused(package):
    for target in ("low:none", "none:x"):
        with pytest.raises(UsageError):
            bundle({"x": f"{package}.{target}"}, root=package)
    with pytest.raises(UsageError, match="has no 'three'"):
        made(package, known=Known(only={f"{package}.high:WAYS": ["three"]}))


def test_the_loader_comes_out_whole():
    source = bundle({"loads": "golfpack.packer.format.loader:loads"})
    names = {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
    assert "golfpack" not in names
    assert "def encode" not in source
