"""A bare environment: a script run with the standard library and what it requires, and nothing else.

The interpreter is this one, isolated (-I) and without its site (-S), so that neither golfpack nor
anything of the user's can be imported. A folder of links makes the packages that were asked for, and
those that they require, importable again.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from golfpack.errors import UsageError

_RUN = (
    "import sys, runpy; sys.path.append(sys.argv[1]); sys.argv = sys.argv[2:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Of this process's environment, what says where its libraries lie; the rest may change what they do.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "SYSTEMROOT")


def run_bare(script: Path, packages: Iterable[str], told: Mapping[str, str]) -> str:
    """What a script prints, run in its folder.

    Args:
        packages: names of those that it may import, besides what they require themselves.
        told: environment variables.

    Raises:
        UsageError: a package is not installed, or the script fails; its last words are in the message.
    """
    with tempfile.TemporaryDirectory() as site:
        for name, path in sorted(_importable(packages).items()):
            Path(site, name).symlink_to(path)
        environment = {k: os.environ[k] for k in _KEPT if k in os.environ}
        found = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _RUN, site, str(script)],
            cwd=script.parent, env={**environment, **told}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"{script.name} fails in a bare environment: {last}", None)
    return found.stdout


def required(text: str) -> list[str]:
    """Names of the packages in the text of a requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [match[0] for line in lines if line and (match := _NAME.match(line))]


def _importable(packages: Iterable[str]) -> dict[str, Path]:
    """What lies in site-packages for some packages and for what they require, by name."""
    found: dict[str, Path] = {}
    asked = set(packages)
    todo, seen = sorted(asked), set[str]()
    while todo:
        name = todo.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError as e:
            if name not in asked:
                continue  # for another platform, or for an extra
            raise UsageError(f"{name} is not installed here", f"pip install {name}") from e
        if package.files is None:
            raise UsageError(
                f"{name} does not tell its files", "install it with pip, in a virtual environment"
            )
        for file in package.files:
            top = file.parts[0]
            if top not in ("..", "__pycache__"):
                found[top] = Path(str(package.locate_file(top)))
        needed = [r for r in package.requires or () if "extra ==" not in r]
        todo += [m[0] for r in needed if (m := _NAME.match(r))]
    return found
