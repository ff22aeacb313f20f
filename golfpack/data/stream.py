"""A token stream from what a user has: token shards, or text and a tokenizer."""

import numpy as np

from golfpack.data.shards import read_tokens
from golfpack.data.text import TEXT_SUFFIXES, read_documents
from golfpack.data.tokenizer import Tokenizer, encode_documents
from golfpack.errors import UsageError


def is_text(path: str) -> bool:
    """Whether a path is that of text to be encoded, by its suffix."""
    return path.endswith(TEXT_SUFFIXES)


def read_stream(path: str, tokenizer: Tokenizer | None, limit: int | None = None) -> np.ndarray:
    """The first `limit` tokens of a text file, of a token shard, or of a glob of shards.

    Returns:
        tokens (n,) uint16, BOS before each document.

    Raises:
        UsageError: unreadable, or text without a tokenizer that can encode it.
    """
    if not is_text(path):
        return read_tokens(path, limit)
    if tokenizer is None:
        raise UsageError(f"{path} is text, which needs a tokenizer", "add --tokenizer FILE.model")
    return encode_documents(tokenizer, read_documents([path]))[:limit]
