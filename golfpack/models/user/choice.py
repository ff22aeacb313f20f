"""What `--model` says: a family by name, or a class in a file of the user's.

The choice is in force inside a `with` block and nowhere else. Opening the block is the one place that
runs a user's file: nothing in a checkpoint or an artifact can lead to it.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from golfpack.base.convert import parse_value
from golfpack.errors import UsageError

# The family of models that are a user's own class (`user.py`).
USER_FAMILY = "user"


@dataclass(frozen=True)
class Choice:
    """What a block of `chosen_model` chose.

    Attributes:
        family: name of the family to read checkpoints as.
        module_class: the user's class; None unless `family` is "user".
        args: keyword arguments of the class; None where none were given.
    """

    family: str
    module_class: type[nn.Module] | None
    args: dict[str, Any] | None


_OPEN: list[Choice] = []


def current_choice() -> Choice | None:
    """The innermost open choice, or None where families are detected."""
    return _OPEN[-1] if _OPEN else None


@contextmanager
def chosen_model(model: str | None, args: Sequence[str] = ()) -> Iterator[None]:
    """Read checkpoints as `model` inside this block. None changes nothing.

    Args:
        model: name of a family, or "path/to/file.py:ClassName", whose file is run right here.
        args: the class's keyword arguments, each "key=value", or a JSON object.

    Raises:
        UsageError: no such file or class, the file raises, or arguments without a class.
    """
    if model is None:
        if args:
            raise UsageError("--model-args without --model", "add --model FILE.py:CLASS")
        yield
        return
    file, colon, name = model.rpartition(":")
    if not colon:
        if args:
            raise UsageError("--model-args is for classes", "set options with --set model.NAME=")
        choice = Choice(model, None, None)
    else:
        choice = Choice(USER_FAMILY, _class(Path(file), name), parse_args(args) if args else None)
    _OPEN.append(choice)
    try:
        yield
    finally:
        _OPEN.pop()


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


def _class(path: Path, name: str) -> type[nn.Module]:
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
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"{path} raised {type(error).__name__}: {error}", "does it run on its own?"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def canonical(args: Mapping[str, Any]) -> str:
    """Keyword arguments as canonical JSON, the form in which artifacts keep them."""
    return json.dumps(args, sort_keys=True, separators=(",", ":"))
