"""Documents from text files: `.jsonl`, and `.txt` with two blank lines or a marker between them."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from golfpack.errors import UsageError, unreadable

# GPT-2's marker, too, as in dumps of TinyStories: no tokenizer here has it as a piece.
_BETWEEN_DOCUMENTS = re.compile(r"\n(?:[ \t]*\n){2,}|<\|endoftext\|>")
TEXT_SUFFIXES = (".txt", ".jsonl")


def read_documents(paths: Iterable[str | Path]) -> Iterator[str]:
    """Yield the documents of some text files, file by file, without empty ones.

    `.jsonl` files hold one {"text": ...} per line. In any other file, two or more blank lines, or
    `<|endoftext|>`, separate documents.

    Raises:
        UsageError: a file is missing, not UTF-8, or a JSON line has no text.
    """
    for path in map(Path, paths):
        text = read_text(path)
        documents = _from_jsonl(text, path) if path.suffix == ".jsonl" else _split(text)
        yield from (d for d in documents if d.strip())


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        UsageError: it is missing, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start})", "give .txt or .jsonl files"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _split(text: str) -> Iterator[str]:
    return (d.strip("\n") for d in _BETWEEN_DOCUMENTS.split(text))


def _from_jsonl(text: str, path: Path) -> Iterator[str]:
    # A byte order mark is no part of any document.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            document = error
        if not isinstance(document, str):
            raise UsageError(
                f'{path}, line {number}: not a JSON object with a string "text"',
                'each line must be like {"text": "..."}',
            )
        if not _encodes(document):
            raise UsageError(
                f"{path}, line {number}: half of a surrogate pair, which is no character",
                "leave it out, or write the whole pair",
            )
        yield document


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
