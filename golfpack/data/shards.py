"""Tokens in files: shards of the challenge, numpy arrays and lists of numbers.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens; the rest is
zero), then uint16 tokens: openai/parameter-golf, and llm.c, version 1. `.npy` is one array of integers
(numpy's format, nothing pickled), `.tokens` decimal numbers between spaces or lines.
"""

import difflib
import glob
from pathlib import Path

import numpy as np

from golfpack.base.files import write_atomically
from golfpack.errors import UsageError

MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS

_FORMAT_HINT = "a shard is 256 int32 (20240520, 1, number of tokens, zeros), then uint16 tokens"


def read_shard(path: str | Path, limit: int | None = None) -> np.ndarray:
    """Read the first `limit` tokens of one file, or all; what it is tells its suffix.

    Returns:
        tokens (n,) uint16.

    Raises:
        UsageError: missing file, wrong header, a size that does not match the header, or tokens beyond
            65,535.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no shard {path}", _near(path))
    if path.suffix in _LISTS:
        return _in_range(_LISTS[path.suffix](path)[:limit], path)
    size = path.stat().st_size
    if size < HEADER_BYTES:
        what = "empty" if size == 0 else f"only {size} bytes long, shorter than a shard's header"
        raise UsageError(f"{path} is {what}", _FORMAT_HINT)
    with path.open("rb") as file:
        header = np.frombuffer(file.read(HEADER_BYTES), "<i4")
        n = _token_count(path, header, size)
        wanted = n if limit is None else min(n, limit)
        tokens = np.frombuffer(file.read(2 * wanted), "<u2")
    return tokens.astype(np.uint16)


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


def _in_range(tokens: np.ndarray, path: Path) -> np.ndarray:
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < 1 << 16):
        raise UsageError(
            f"{path} has tokens from {tokens.min()} to {tokens.max()}", "0 to 65,535 can be read"
        )
    return tokens.astype(np.uint16)


def _token_count(path: Path, header: np.ndarray, size: int) -> int:
    if (header[0], header[1]) != (MAGIC, VERSION):
        raise UsageError(
            f"{path} is not a token shard: its header starts with {header[0]}, {header[1]}",
            _FORMAT_HINT,
        )
    n = int(header[2])
    expected = HEADER_BYTES + 2 * n
    if n < 0 or size != expected:
        state = "is truncated" if size < expected else "has bytes left over"
        raise UsageError(
            f"{path} {state}: {size} bytes, but its header promises {n} tokens, {expected} bytes",
            "fetch or write the shard again",
        )
    return n


def read_tokens(pattern: str | Path, limit: int | None = None) -> np.ndarray:
    """Read the shards that match a glob, in the order of their names, as one stream.

    Files with `_bytes_` in their name are side-cars that hold byte counts in the same format;
    they are never read as tokens.

    Args:
        pattern: a path, or a glob such as `data/fineweb_val_*.bin`.
        limit: stop after this many tokens; None reads all.

    Returns:
        tokens (n,) uint16.

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
    """Write one shard; the file appears complete or not at all.

    Args:
        path: file to write or replace.
        tokens: (n,) integers in 0..65535.

    Raises:
        UsageError: a token does not fit uint16, or the folder cannot be written.
    """
    path = Path(path)
    tokens = np.asarray(tokens)
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < 1 << 16):
        raise UsageError(
            f"tokens span {tokens.min()}..{tokens.max()}; a shard holds 0..65535",
            "use a tokenizer of at most 65,536 pieces",
        )
    header = np.zeros(HEADER_INTS, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    write_atomically(path, header.tobytes() + tokens.astype("<u2").tobytes())


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".bin", *_LISTS))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"{path.parent} holds {', '.join(near or names[:5]) or 'no .bin files'}"
