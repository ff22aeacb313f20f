"""What a byte codec is, and what all of them share. Those there are: `packer/format/codecs.py`.

A codec is a frozen dataclass whose fields are its options (and so its place in the manifest). Decoding
never yields more than the size the caller asks for: a hostile stream cannot exhaust memory.
"""

from typing import ClassVar, Protocol

from golfpack.base.convert import require
from golfpack.errors import CorruptError


class Codec(Protocol):
    """What every entry of `CODECS` offers."""

    codec_id: ClassVar[str]

    def encode(self, data: bytes) -> bytes:
        """Coded form of `data`; the same bytes every time."""
        ...

    def decode(self, data: bytes, size: int) -> bytes:
        """The `size` bytes that were coded. Raises CorruptError for anything else."""
        ...


def in_range(codec_id: str, option: str, value: int, low: int, high: int) -> None:
    """Raise UsageError where an option is not within low..high."""
    require(
        low <= value <= high, f"codec {codec_id!r}: {option} cannot be {value}", f"{low} to {high}"
    )


def sized(out: bytes, size: int, codec_id: str) -> bytes:
    """`out`, or CorruptError where it is not `size` bytes."""
    if len(out) != size:
        more = "more" if len(out) > size else f"{len(out):,}"
        raise damaged(codec_id, f"it holds {more} bytes where {size:,} belong")
    return out


def damaged(codec_id: str, why: object) -> CorruptError:
    """The error of a stream that does not decode."""
    return CorruptError(
        f"a {codec_id} stream is damaged: {why}", "get the file again and compare its sha256"
    )
