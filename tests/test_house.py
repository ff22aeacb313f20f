"""The house: every module is reached by a command or the API, and importing is as light as promised."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from conftest import TINY

from golfpack import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "golfpack"
MODULES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere in it, within functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        found |= {n for n in names if n in MODULES}
    return found


def test_nothing_is_there_that_no_command_reaches():
    commands = {f"golfpack.commands.{name}" for name in cli.FILES.values()}
    assert commands <= MODULES.keys()
    todo = ["golfpack", "golfpack.__main__", "golfpack.cli", "golfpack.api", *commands]
    todo += imported(
        ROOT / "docs" / "make_reports.py"
    )  # which writes the reference of the documents
    todo.append("golfpack.export.standalone")  # `export` bundles it and never imports it
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported(MODULES[name])
    packages = {n for n, p in MODULES.items() if p.name == "__init__.py"}
    assert MODULES.keys() - seen - packages == set()


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import golfpack", ("torch", "numpy", "numba", "scipy", "rich", "typer")),
        ("import golfpack.cli", ("torch", "numpy", "numba", "scipy")),
        (
            "import golfpack.models",
            ("numba", "scipy", "triton", "golfpack.packer", "golfpack.build"),
        ),
        (
            "import golfpack.packer.format.loader",
            ("torch", "scipy", "triton", "golfpack.packer.passes"),
        ),
        # torch's compiler takes a second, and comes with anything that torch does on its meta device.
        (
            f"from golfpack.models.golf.family import build, spec; build({TINY}); spec({TINY})",
            ("torch._dynamo", "sympy", "triton"),
        ),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(statement, heavy):
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(run.stdout.split())


def test_pytest_looks_into_every_folder(pytestconfig):
    """By default it leaves out folders named build or dist, in silence."""
    names = {p.parent.name for p in (ROOT / "tests").rglob("test_*.py")}
    left_out = pytestconfig.getini("norecursedirs")
    assert not [n for n in names if any(fnmatch(n, pattern) for pattern in left_out)]
