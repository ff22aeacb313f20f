"""A token stream from what a user has: token shards, or text and a tokenizer."""

import glob
from pathlib import Path

import numpy as np

from golfpack.data.alph_tokenizer import DOCUMENT_END, AlphTokenizer
from golfpack.data.shards import read_tokens
from golfpack.data.text import TEXT_SUFFIXES, read_documents, read_text
from golfpack.data.tokenizer import Tokenizer, encode_documents
from golfpack.errors import UsageError


def is_text(path: str) -> bool:
    """Whether a path is that of text to be encoded, by its suffix."""
    return path.endswith(TEXT_SUFFIXES)


def check_apart(one: str, other: str, what: str, of: str) -> None:
    """Refuse held-out data that is among other data, by their files.

    Args:
        one, other: paths, or globs.
        what, of: what each is, for the message.

    Raises:
        UsageError: a file of `one` is a file of `other`.
    """
    seen = {Path(f).resolve() for f in (other, *glob.glob(other))}
    for file in (one, *glob.glob(one)):
        if Path(file).resolve() in seen:
            raise UsageError(f"{what} has {file}, which is {of}, too", "hold other text out")


def read_stream(path: str, tokenizer: Tokenizer | None, limit: int | None = None) -> np.ndarray:
    """The first `limit` tokens of a text file, of token data, or of a glob of shards.

    Returns:
        tokens (n,) uint16, or uint32 where one is beyond 65,535; BOS before each document.

    Raises:
        UsageError: unreadable, or text without a tokenizer that can encode it.
    """
    return read_counted(path, tokenizer, limit)[0]


def read_counted(
    path: str, tokenizer: Tokenizer | None, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """`read_stream`'s tokens, and the bytes of text behind each, (n,) int64, where tokens do not tell.

    They do not where the tokenizer drops characters: ALPH's.
    """
    if not is_text(path):
        return read_tokens(path, limit), None
    if tokenizer is None:
        raise UsageError(f"{path} is text, which needs a tokenizer", "add --tokenizer FILE.model")
    if isinstance(tokenizer, AlphTokenizer):
        encoded = tokenizer.encode(alph_text(Path(path)))
        return encoded.tokens[:limit], encoded.bytes[:limit]
    return encode_documents(tokenizer, read_documents([path]))[:limit], None


def alph_text(path: Path) -> str:
    """Text as ALPH's trainer reads it: a .txt as it is; a document a line, with its mark at the end."""
    if path.suffix != ".jsonl":
        return read_text(path)
    documents = (d.removesuffix("\n").removesuffix(DOCUMENT_END) for d in read_documents([path]))
    return "".join(f"{d}{DOCUMENT_END}\n" for d in documents)
