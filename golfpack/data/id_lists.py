"""Lists of ids that options hold as text: short, JSON-safe, and as people type them."""

import base64
import re

import numpy as np

from golfpack.errors import UsageError

# What a packed table of word starts begins with.
_PACKED = "b85:"
_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def index_list(text: str, name: str) -> tuple[int, ...]:
    """Numbers, of blocks say, written as "0-5,3-5,6": spans include both ends. Empty text gives ().

    Raises:
        UsageError: anything else; `name` is the option that holds the text.
    """
    indices: list[int] = []
    for part in text.split(",") if text else ():
        match = _SPAN.fullmatch(part.strip())
        last = int(match[2] or match[1]) if match else -1
        if match is None or last < int(match[1]):
            raise UsageError(
                f"option {name} is {text!r}, not a list of numbers",
                "write numbers and rising spans, such as 0-5,3-5,6,7",
            )
        indices.extend(range(int(match[1]), last + 1))
    return tuple(indices)


def word_start_text(starts: np.ndarray) -> str:
    """The option `word_starts` for (V,) truth values: short, and JSON-safe."""
    if not starts.any():
        return "none"
    bits = np.packbits(starts, bitorder="little")
    return _PACKED + base64.b85encode(bits.tobytes()).decode("ascii")


def word_start_ids(text: str) -> tuple[int, ...]:
    """The tokens that the option `word_starts` names.

    Raises:
        UsageError: it is neither a list of ids, nor "none", nor written by `word_start_text`.
    """
    if text == "none":
        return ()
    if not text.startswith(_PACKED):
        return index_list(text, "word_starts")
    try:
        data = base64.b85decode(text.removeprefix(_PACKED))
    except ValueError as e:
        raise UsageError("option word_starts is damaged", "give --tokenizer instead") from e
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if not bits.any():
        raise UsageError("option word_starts names no token", "write none for none")
    return tuple(int(i) for i in np.flatnonzero(bits))
