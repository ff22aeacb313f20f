"""Sizes as people write them."""

import re
from fractions import Fraction

from golfpack.errors import UsageError

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
# Fifteen digits are a petabyte: beyond that it is a slip of the hand.
_SIZE = re.compile(r"([0-9]{1,15}(?:[_,][0-9]{3})*(?:\.[0-9]{1,15})?)\s*([a-z]*)", re.IGNORECASE)


def parse_size(text: str, numel: int) -> int:
    """Bytes of "16MB" (16,000,000), "16MiB" (16,777,216), "16000000", or "3.5bpw" of `numel` weights.

    Raises:
        UsageError: not a size, or not positive.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or unit not in (*_UNITS, "bpw"):
        raise UsageError(f"{text!r} is not a size", "try 16MB, 16MiB, 16000000 or 3.5bpw")
    number = Fraction(re.sub("[_,]", "", match[1]))
    size = int(number * numel / 8 if unit == "bpw" else number * _UNITS[unit])
    if size <= 0:
        raise UsageError(f"{text!r} leaves no bytes at all", "try 16MB, 16MiB, 16000000 or 3.5bpw")
    return size
