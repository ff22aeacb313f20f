"""`golfpack build --code FILE --pack`: a user's own script in few bytes, the same program."""

import ast
from pathlib import Path

from golfpack.errors import UsageError, unreadable
from golfpack.export.minify import compact, pack

# What asks for a function's source: code that runs out of a string has none to show.
_SOURCE = ("triton.jit", "inspect.getsource", "torch.jit.script", "linecache.getlines")


def packed_code(path: Path) -> bytes:
    """A Python file as a script of three lines that runs the same program.

    No name is changed. Comments and layout go where the program is the same without, which is seen from
    its syntax tree.

    Raises:
        UsageError: it is no Python, or it asks for its own source.
    """
    if not path.is_file():
        raise unreadable(path, what="--code ")
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError) as e:
        raise UsageError(
            f"{path} is no Python that can be packed: {e}", "drop --pack to count it as it is"
        ) from e
    asked = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    if found := next((name for name in _SOURCE if name in asked), None):
        raise UsageError(
            f"{path} uses {found}, which reads the function's source, and packed code has none",
            "drop --pack to count it as it is",
        )
    return min((pack(text) for text in _same(source, tree)), key=len)


def _same(source: str, tree: ast.Module) -> list[str]:
    """The source, and shorter ways to write it that mean the same to the letter."""
    plain = ast.unparse(tree)
    wanted = ast.dump(tree)
    return [source, *(s for s in (plain, compact(plain)) if ast.dump(ast.parse(s)) == wanted)]
