"""What `--model` says: a family by name, or a class in a file of the user's."""

from collections.abc import Sequence
from pathlib import Path

from golfpack.errors import UsageError
from golfpack.models import find_family
from golfpack.models.base import Family
from golfpack.models.user.family import user_family
from golfpack.models.user.open_class import code_sha256, open_class, parse_args


def choose_family(model: str | None, args: Sequence[str] = ()) -> Family | None:
    """The family that `--model` and `--model-args` name; None leaves it to be detected.

    Args:
        model: name of a family, or "path/to/file.py:ClassName", whose file is run right here.
        args: the class's keyword arguments, each "key=value", or a JSON object.

    Raises:
        UsageError: no such family, file or class, the file raises, or arguments without a class.
    """
    if model is None:
        if args:
            raise UsageError("--model-args without --model", "add --model FILE.py:CLASS")
        return None
    file, colon, name = model.rpartition(":")
    if colon:
        module_class = open_class(Path(file), name)
        told = parse_args(args) if args else None
        return user_family(module_class, told, code_sha256(Path(file)))
    if args:
        raise UsageError("--model-args is for classes", "set options with --set model.NAME=")
    return find_family(model)
