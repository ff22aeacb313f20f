"""Tokens in files: shards of the challenge, numpy arrays and lists of numbers.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens; the rest is
zero), then uint16 tokens: openai/parameter-golf, and llm.c's for GPT-2. llm.c's for Llama 3 (magic
20240801, version 7) have uint32 tokens. `.npy` is one array of integers (numpy's format, nothing
pickled), `.tokens` decimal numbers between spaces or lines. Tokens in memory are uint16 where all of
them fit, as those of most small models do, and uint32 otherwise.
"""

import difflib
import glob
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.base.files import write_atomically
from golfpack.errors import UsageError

MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
# Of shards of tokens beyond 65,535.
WIDE_MAGIC, WIDE_VERSION = 20240801, 7
# (magic, version) -> the type of the tokens.
_TOKENS = {(MAGIC, VERSION): "<u2", (WIDE_MAGIC, WIDE_VERSION): "<u4"}

_FORMAT_HINT = (
    "a shard is 256 int32 (20240520, 1, number of tokens, zeros), then uint16 tokens; or uint32 ones "
    "behind 20240801, 7"
)


def read_shard(path: str | Path, limit: int | None = None) -> np.ndarray:
    """Read the first `limit` tokens of one file, or all; what it is tells its suffix.

    Returns:
        tokens (n,) uint16, or uint32 where one is beyond 65,535.

    Raises:
        UsageError: missing file, wrong header, a size that does not match the header, or negative
            tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no shard {path}", _near(path))
    if path.suffix in _LISTS:
        return as_tokens(_LISTS[path.suffix](path)[:limit], str(path))
    size = path.stat().st_size
    if size < HEADER_BYTES:
        what = "empty" if size == 0 else f"only {size} bytes long, shorter than a shard's header"
        raise UsageError(f"{path} is {what}", _FORMAT_HINT)
    with path.open("rb") as file:
        header = np.frombuffer(file.read(HEADER_BYTES), "<i4")
        n, kind = _told_tokens(path, header, size)
        wanted = n if limit is None else min(n, limit)
        tokens = np.frombuffer(file.read(kind.itemsize * wanted), kind)
    return as_tokens(tokens, str(path))


def _numpy(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped and not read."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{path} is not a readable .npy: {error}", "np.save(path, tokens)"
        ) from error
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        what = getattr(tokens, "shape", None), getattr(tokens, "dtype", None)
        raise UsageError(f"{path} holds an array of shape and dtype {what}", "save (n,) integers")
    return tokens


def _numbers(path: Path) -> np.ndarray:
    """The numbers in a .tokens file."""
    try:
        words = path.read_text(encoding="ascii").split()
        return np.array(words, dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{path} is not a list of numbers: {error}", "write token ids with spaces between them"
        ) from error


_LISTS = {".npy": _numpy, ".tokens": _numbers}


def as_tokens(tokens: np.ndarray, what: str) -> np.ndarray:
    """Token ids in the type that they have everywhere: uint16, or uint32 where one does not fit.

    Args:
        tokens: (n,) integers.
        what: whose they are, for messages.

    Raises:
        UsageError: one is negative, or beyond uint32.
    """
    largest = int(tokens.max()) if tokens.size else 0
    if tokens.size and not (int(tokens.min()) >= 0 and largest < 1 << 32):
        raise UsageError(
            f"{what} has tokens from {tokens.min()} to {tokens.max()}",
            "0 to 4,294,967,295 can be read",
        )
    return tokens.astype(np.uint16 if largest < 1 << 16 else np.uint32)


def tokens_sha256(tokens: np.ndarray) -> str:
    """Of the token ids as little-endian uint16, or as uint32 where one is beyond 65,535."""
    kind = "<u2" if tokens.dtype.itemsize <= 2 else "<u4"
    return hashlib.sha256(tokens.astype(kind).tobytes()).hexdigest()


def _told_tokens(path: Path, header: np.ndarray, size: int) -> tuple[int, np.dtype[Any]]:
    """How many tokens a shard has, and their type."""
    if (int(header[0]), int(header[1])) not in _TOKENS:
        raise UsageError(
            f"{path} is not a token shard: its header starts with {header[0]}, {header[1]}",
            _FORMAT_HINT,
        )
    n, kind = int(header[2]), np.dtype(_TOKENS[int(header[0]), int(header[1])])
    expected = HEADER_BYTES + kind.itemsize * n
    if n < 0 or size != expected:
        state = "is truncated" if size < expected else "has bytes left over"
        raise UsageError(
            f"{path} {state}: {size} bytes, but its header promises {n} tokens, {expected} bytes",
            "fetch or write the shard again",
        )
    return n, kind


def read_tokens(pattern: str | Path, limit: int | None = None) -> np.ndarray:
    """Read the shards that match a glob, in the order of their names, as one stream.

    Files with `_bytes_` in their name are side-cars that hold byte counts in the same format;
    they are never read as tokens.

    Args:
        pattern: a path, or a glob such as `data/fineweb_val_*.bin`.
        limit: stop after this many tokens; None reads all.

    Returns:
        tokens (n,) uint16, or uint32 where one is beyond 65,535.

    Raises:
        UsageError: nothing matches, or a shard is damaged.
    """
    pattern = str(pattern)
    matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    paths = [p for p in matches if "_bytes_" not in Path(p).name]
    if not paths:
        if matches:
            raise UsageError(
                f"{pattern} matches only byte-count side-cars ({matches[0]})", "name token shards"
            )
        raise UsageError(f"no shard matches {pattern}", _near(Path(pattern)))
    parts: list[np.ndarray] = []
    left = limit
    for path in paths:
        parts.append(read_shard(path, left))
        if left is not None:
            left -= len(parts[-1])
            if left <= 0:
                break
    return np.concatenate(parts)


def write_shard(path: str | Path, tokens: np.ndarray) -> None:
    """Write one shard, of uint32 where a token is beyond 65,535; it appears complete or not at all.

    Args:
        path: file to write or replace.
        tokens: (n,) integers.

    Raises:
        UsageError: a token is negative or beyond uint32, or the folder cannot be written.
    """
    path = Path(path)
    tokens = as_tokens(np.asarray(tokens), "the stream")
    wide = tokens.dtype == np.uint32
    header = np.zeros(HEADER_INTS, "<i4")
    header[:2] = (WIDE_MAGIC, WIDE_VERSION) if wide else (MAGIC, VERSION)
    header[2] = tokens.size
    write_atomically(path, header.tobytes() + tokens.astype("<u4" if wide else "<u2").tobytes())


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".bin", *_LISTS))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"{path.parent} holds {', '.join(near or names[:5]) or 'no .bin files'}"
