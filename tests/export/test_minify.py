"""Minified and packed source does what it did."""

import hashlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from golfpack.errors import UsageError
from golfpack.export.bundle import bundle
from golfpack.export.minify import compact, minify, pack
from golfpack.packer.format.rans.tables import tables

SNIPPETS = {
    "closures": """
        def outer(first, *rest, scale=2, **more):
            total = [x * scale for x in (first, *rest) if x]
            def inner(step):
                nonlocal scale
                scale += step
                return lambda first: first + scale + sum(total)
            return inner(3)(first), more
        result = outer(1, 2, scale=5, other=7), outer(first=4)
        """,
    "classes": """
        from dataclasses import dataclass, replace
        from typing import ClassVar
        @dataclass(frozen=True)
        class Base:
            kind: ClassVar[str] = "base"
            length: int
            items: tuple = ()
            def doubled(self) -> int:
                return self.length * 2
        class Wide(Base):
            @property
            def wide(self):
                return self.doubled() + len(self.items)
            @classmethod
            def make(cls, length):
                return cls(length=length, items=(1, 2))
        w = replace(Wide.make(4), length=7)
        result = w.wide, w.length, Wide.kind, [*{"b": 1}.items()]
        """,
    "shadows": """
        import math as m
        value = 3
        def value_of(value, m=m.floor):
            def deeper():
                global counted
                counted = value
                return m(value)
            return deeper()
        result = value_of(2.5) + value, value_of(value=9.5), counted
        """,
    "comprehensions": """
        n = 2
        grid = [[n * j + i for i in range(n)] for j in range(n)]
        seen = {k: (last := v) for k, v in enumerate(grid)}
        result = grid, seen, last, sorted(grid, key=lambda n: -n[0])
        """,
    "control": """
        def walk(k):
            while k:
                k -= 1
                if k == 3: continue
                elif k > 8: yield "big"
                else:
                    try:
                        yield 1 / (k - 1)
                    except ZeroDivisionError as error:
                        yield type(error).__name__
                    finally:
                        pass
        def choose(v):
            match v:
                case {"a": a, **rest}: return a, rest
                case [x, *others]: return x, others
                case _: return None
        result = [*walk(10)], choose({"a": 1, "b": 2}), choose([1, 2, 3]), f"{choose([0])!r:>9} {{}}"
        """,
    "layout": """
        text = '''two
        lines''' 'and' "three"
        result = (1 if text else 0, 0 if not text else 1.5 .real, [1,
            2][0], -3 ** 2, not(text), 5 if 3 .real else 4, "a" in"abc", lambda: (yield))[:7]
        if result: pass
        for i in range(3):
            x = i
            if i: y = x
        @(lambda f: f)
        def g(): return ...
        result += (x, y, g())
        """,
}


def run(source):
    space = {"__name__": "snippet"}
    exec(compile(source, "snippet", "exec"), space)
    return space["result"]


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_program_does_what_it_did(name):
    source = textwrap.dedent(SNIPPETS[name])
    short = minify(source, keep=["result"])
    assert run(short) == run(source)
    assert run(compact(source)) == run(source)
    assert len(short) < len(source)


def test_names_that_others_see_stay():
    source = "def load(path, deep=1):\n    count = deep\n    return path, count\n"
    assert minify(source, keep=["load"]) == "def load(path,deep=1):a=deep;return path,a\n"
    with pytest.raises(UsageError, match="eval"):
        minify("x = eval('1')")


def test_attributes_are_shortened_only_where_nothing_else_has_them():
    source = (
        "class Own:\n"
        "    def shape(self):\n        return 'x'.upper()\n"
        "    def breadth(self):\n        return self.shape()\n"
        "result = Own().breadth()\n"
        "import numpy\n"
    )
    short = minify(source)
    assert ".shape" in short
    assert "breadth" not in short
    assert ".shape" not in minify(source, attributes=["shape"])


def test_real_code_survives_minifying_and_packing(tmp_path):
    # Every table of the coder, all in integer arithmetic, from a script that runs alone.
    source = bundle({"tables": "golfpack.packer.format.rans.tables:tables"}, annotations=False)
    source += "\nimport sys\nfound = tables()\nsys.stdout.write(found.symbol.tobytes().hex())\n"
    packed = pack(minify(source))
    assert packed.count(b"\n") == 3
    assert len(packed) < 0.4 * len(source)
    (tmp_path / "packed.py").write_bytes(packed)
    path = tmp_path / "packed.py"
    done = subprocess.run([sys.executable, "-I", path], capture_output=True, check=True)
    assert hashlib.sha256(bytes.fromhex(done.stdout.decode())).digest() == (
        hashlib.sha256(tables().symbol.tobytes()).digest()
    )


def test_packing_keeps_every_byte(tmp_path):
    text = np.random.default_rng(0).bytes(8192).hex()
    path = tmp_path / "packed.py"
    path.write_bytes(pack(f'print("{text}")'))
    body = path.read_bytes().partition(b"decompress(")[2]
    assert set(body) | set(b"\0\r\n") == set(range(256))  # what a string cannot hold is escaped
    done = subprocess.run([sys.executable, "-I", path], capture_output=True, check=True, text=True)
    assert done.stdout == text + "\n"
