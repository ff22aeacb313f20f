"""Running a user's file for the class in it: `--model FILE.py:CLASS`.

`open_class` is the one place that runs a user's file, and `choose_family` (`golfpack.models.choose`)
the only one that calls it: nothing in a checkpoint or an artifact can lead here.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

import golfpack
from golfpack.base.convert import parse_value
from golfpack.errors import UsageError
from golfpack.models.user.flash_attention import MODULES, stand_in


def parse_args(args: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments from "key=value" texts and JSON objects, later ones winning.

    Raises:
        UsageError: a text that is neither.
    """
    out: dict[str, Any] = {}
    for text in args:
        value = parse_value(text)
        if isinstance(value, dict):
            out |= value
            continue
        key, eq, value = text.partition("=")
        if not eq or not key.isidentifier():
            raise UsageError(
                f"--model-args {text!r} is neither key=value nor a JSON object",
                """such as --model-args dim=64 or --model-args '{"dim": 64}'""",
            )
        out[key] = parse_value(value)
    return out


def open_class(path: Path, name: str) -> type[nn.Module]:
    """Run a Python file and take the class of that name.

    Raises:
        UsageError: no such file or class, or the file raises.
    """
    module = _run(path)
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    classes = [
        n
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, nn.Module) and c.__module__ == module.__name__
    ]
    what = "has no" if found is None else "has something else than a torch module named"
    raise UsageError(
        f"{path} {what} class {name!r}", f"its modules: {', '.join(classes) or 'none'}"
    )


def code_sha256(path: Path) -> str:
    """sha256, hex, of a user's file and of what has been imported from its folder and below.

    Not of what is installed: a library that computes something else is to have another version.
    """
    folder = path.resolve().parent
    installed = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, golfpack.__path__[0])}
    files = {path.resolve()}
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "").resolve()
        beside = folder in file.parents and installed.isdisjoint(file.parents)
        if name != "__main__" and beside and file.suffix == ".py" and file.is_file():
            files.add(file)
    parts = sorted(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _run(path: Path) -> ModuleType:
    """The user's file as a module; files beside it can be imported from it."""
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"there is no Python file {path}", "--model FILE.py:CLASS")
    name = f"golfpack_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # as for any .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    # What the file compiles for itself runs as it is written: nothing here is run often enough to pay
    # for a compiler, and many machines have none. `--compile` compiles the whole model.
    torch.compiler.set_stance("force_eager")
    try:
        _execute(spec.loader, module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"{path} raised {type(error).__name__}: {error}", "does it run on its own?"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _execute(loader: Loader, module: ModuleType) -> None:
    """Run the file; flash attention that is not there has a stand-in, for this file alone."""
    lent: list[str] = []
    try:
        for _ in range(len(MODULES) + 1):
            try:
                return loader.exec_module(module)
            except ModuleNotFoundError as error:
                if error.name not in MODULES or error.name in sys.modules:
                    raise
                sys.modules[error.name] = stand_in(error.name)
                lent.append(error.name)
    finally:
        for name in lent:  # transformers, for one, would take it for the real one
            del sys.modules[name]
