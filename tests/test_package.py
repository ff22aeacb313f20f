"""What a wheel holds: every file that the package reads, and metadata that are true."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "golfpack"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def data_files() -> list[str]:
    """Files of the package that are no Python, by their paths in it."""
    found = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sorted(
        p.relative_to(PACKAGE).as_posix() for p in found if p.suffix not in (".py", ".pyc")
    )


def test_every_data_file_goes_into_the_wheel():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["golfpack"]
    # A pattern's * stays within one folder.
    same_depth = lambda f, p: f.count("/") == p.count("/")  # noqa: E731
    goes = lambda f: any(fnmatch(f, p) and same_depth(f, p) for p in patterns)  # noqa: E731
    files = data_files()
    assert "py.typed" in files
    assert [f for f in files if not goes(f)] == []
    assert [p for p in patterns if not any(fnmatch(f, p) for f in files)] == []


def test_every_folder_of_modules_is_a_package():
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


@pytest.mark.slow
def test_a_wheel_has_it_all(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 or newer")
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "golfpack", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(path).decode()
    held = {n.removeprefix("golfpack/") for n in names if n.startswith("golfpack/")}
    assert held >= {
        *data_files(),
        *(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")),
    }
    assert "Classifier: Typing :: Typed" in metadata
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.M)) == extras.keys()


INSTALLS = re.compile(r"pip install ([^`\n#\"]+)")


def test_lines_that_install_work_from_a_clone():
    """No line asks an index for golfpack, which is on none; extras exist, pins are taken along."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    code = PACKAGE.rglob("*.py")
    extras = PROJECT["project"]["optional-dependencies"]
    found = [(p, m.strip()) for p in (*pages, *code) for m in INSTALLS.findall(p.read_text())]
    assert len(found) > 5
    for path, line in found:
        assert "golfpack" not in line, f"{path}: {line}"
        if "." in line.replace("constraints.txt", "").split("[")[0].split():
            assert "-c constraints.txt" in line, f"{path}: {line}"
        for named in re.findall(r"\.\[([\w,]+)\]", line):
            assert set(named.split(",")) <= extras.keys(), f"{path}: {line}"
