"""The house: every module is reached by a command or the API, and importing is as light as promised."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    ("module", "heavy"),
    [
        ("golfpack", ("torch", "numpy", "numba", "scipy", "rich", "typer")),
        ("golfpack.cli", ("torch", "numpy", "numba", "scipy")),
        ("golfpack.models", ("numba", "scipy", "triton", "golfpack.packer", "golfpack.build")),
        ("golfpack.packer.format.loader", ("torch", "scipy", "triton", "golfpack.packer.passes")),
    ],
)
def test_an_import_loads_no_more_than_it_says(module, heavy):
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(run.stdout.split())
