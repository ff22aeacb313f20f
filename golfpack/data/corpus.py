"""English text that every CPython carries: a corpus for demonstrations and tests, with no download.

The pydoc topics (the language reference as text) and the docstrings of the standard library. Source
files are parsed, never imported, so collecting them runs no code. What comes out depends on the
Python version alone: same version, same documents in the same order.
"""

import ast
import hashlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from golfpack.errors import UsageError

# Tests repeat their subjects; encodings repeat one generated sentence for each code page.
SKIPPED_PARTS = frozenset({"test", "tests", "idle_test", "encodings", "site-packages"})

# Stock phrases ("Return a copy.") may recur; with this many words, a repeat is a copy.
REPEAT_WORDS = 8

# Below this many characters a document is mostly its own boundary.
MIN_DOCUMENT_CHARS = 200


def python_documents() -> list[str]:
    """Documents from this interpreter's standard library, topics first, then modules by path.

    A document is one pydoc topic, or all docstrings of one module in source order. Doctest examples
    are dropped, and so is every paragraph of `REPEAT_WORDS` words or more that an earlier document
    already had (compared by its words alone), so that no split of the documents shares a paragraph.

    Raises:
        UsageError: the interpreter comes without library sources (an embedded or zipped Python).
    """
    root = Path(sysconfig.get_path("stdlib"))
    raw = [*_topics(root), *_module_docstrings(root)]
    if not raw:
        raise UsageError(
            f"no library sources under {root}",
            "This Python is installed without its .py files; train on text of your own instead.",
        )
    seen: set[str] = set()
    documents = ("\n\n".join(_fresh_paragraphs(text, seen)) for text in raw)
    return [d for d in documents if len(d) >= MIN_DOCUMENT_CHARS]


def split_documents(
    documents: Iterable[str], val_fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """(training, validation) documents; a document's side follows from its content and the seed.

    Documents queue by the hash of seed and content, and validation takes each one that still fits
    into `val_fraction` of all characters. Both lists keep the given order; equal documents count
    once.

    Raises:
        UsageError: the fraction is not between 0 and 1, or leaves one side without a document.
    """
    if not 0.0 < val_fraction < 1.0:
        raise UsageError(
            f"the validation fraction is {val_fraction}", "Choose one above 0 and below 1."
        )
    unique = list(dict.fromkeys(documents))
    room = val_fraction * sum(map(len, unique))
    chosen: set[str] = set()
    for document in sorted(unique, key=lambda d: _content_key(d, seed)):
        if len(document) <= room:
            chosen.add(document)
            room -= len(document)
    if not chosen or len(chosen) == len(unique):
        raise UsageError(
            f"{len(unique)} documents cannot be split at a validation fraction of {val_fraction}",
            "Give more and shorter documents, or another fraction.",
        )
    return [d for d in unique if d not in chosen], [d for d in unique if d in chosen]


def _content_key(document: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{document}".encode()).digest()


def _topics(root: Path) -> list[str]:
    """The pydoc topics, in the order of their names."""
    path = root / "pydoc_data" / "topics.py"
    if not path.is_file():
        return []
    for node in _parse(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return [topics[name] for name in sorted(topics)]
    return []


def _module_docstrings(root: Path) -> list[str]:
    """One text for each module of the standard library: its docstrings in source order."""
    paths = (p for p in root.rglob("*.py") if _is_library(p.relative_to(root)))
    in_order = sorted(paths, key=lambda p: p.relative_to(root).as_posix())
    return ["\n\n".join(_docstrings(_parse(path))) for path in in_order]


def _is_library(relative: Path) -> bool:
    top = relative.parts[0].removesuffix(".py")
    return top in sys.stdlib_module_names and SKIPPED_PARTS.isdisjoint(relative.parts)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about code that never runs here
        return ast.parse(path.read_bytes(), str(path))


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, then of everything defined in it, outside in and top down."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        yield from _docstrings(child)


def _fresh_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """Paragraphs of `text` not in `seen`, which grows by their keys."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in block.splitlines()]
        paragraph = "\n".join(_before_doctest(lines)).strip("\n")
        words = re.findall(r"\w+", paragraph.lower())
        key = " ".join(words)
        if not words or key in seen:
            continue
        if len(words) >= REPEAT_WORDS:
            seen.add(key)
        yield paragraph


def _before_doctest(lines: list[str]) -> Iterator[str]:
    """The lines above an interactive example; from its prompt on, a paragraph is all example."""
    for line in lines:
        if line.lstrip().startswith(">>>"):
            return
        yield line
