# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (brotli has no types)
"""Byte codecs. One `codec_id` is one byte format for ever; a change of format is a new id.

Libraries beyond Python's own are imported where they are used: most artifacts need none to be read.
"""

import lzma
import zlib
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from golfpack.base.convert import make
from golfpack.errors import UsageError
from golfpack.packer.format.codec import Codec, damaged, in_range, sized

# zstd's longest block, 128 KB, takes 4 bytes at the least.
_ZSTD_GROWTH = 1 << 15


@dataclass(frozen=True)
class Store:
    """The bytes themselves."""

    codec_id: ClassVar[str] = "store"

    def encode(self, data: bytes) -> bytes:
        return bytes(data)

    def decode(self, data: bytes, size: int) -> bytes:
        return sized(bytes(data), size, self.codec_id)


@dataclass(frozen=True)
class Zlib:
    """DEFLATE with zlib framing (RFC 1950)."""

    codec_id: ClassVar[str] = "zlib"
    level: int = 9

    def __post_init__(self) -> None:
        in_range(self.codec_id, "level", self.level, 0, 9)

    def encode(self, data: bytes) -> bytes:
        return zlib.compress(data, self.level)

    def decode(self, data: bytes, size: int) -> bytes:
        inflater = zlib.decompressobj()
        try:
            out = inflater.decompress(data, size + 1)
        except zlib.error as e:
            raise damaged(self.codec_id, e) from e
        if not inflater.eof or inflater.unused_data:
            raise damaged(self.codec_id, "its end does not match")
        return sized(out, size, self.codec_id)


@dataclass(frozen=True)
class Zstd:
    """Zstandard (RFC 8878), one frame without checksum: the artifact has its own."""

    codec_id: ClassVar[str] = "zstd"
    level: int = 22

    def __post_init__(self) -> None:
        in_range(self.codec_id, "level", self.level, 1, 22)

    def encode(self, data: bytes) -> bytes:
        import zstandard

        compressor = zstandard.ZstdCompressor(
            level=self.level, write_content_size=False, write_checksum=False, threads=0
        )
        return compressor.compress(data)

    def decode(self, data: bytes, size: int) -> bytes:
        import zstandard

        # Fed in small pieces: a frame may state any size, and a few bytes may stand for megabytes.
        inflater = zstandard.ZstdDecompressor().decompressobj()
        out, at = bytearray(), 0
        try:
            while at < len(data) and len(out) <= size and not inflater.eof:
                piece = max(16, (size - len(out)) // _ZSTD_GROWTH)
                out += inflater.decompress(data[at : at + piece])
                at += piece
        except zstandard.ZstdError as e:
            raise damaged(self.codec_id, e) from e
        if len(out) <= size and (not inflater.eof or inflater.unused_data or at < len(data)):
            raise damaged(self.codec_id, "it does not end where it should")
        return sized(bytes(out), size, self.codec_id)


# Up to so many bytes a window of no more finds as much: from preset 4 on the very same matches.
_SMALL = 1 << 16


@dataclass(frozen=True)
class Lzma:
    """Raw LZMA2: no container, no checksum. lc = lp = pb = 0 suits single-byte symbols best."""

    codec_id: ClassVar[str] = "lzma"
    preset: int = 9

    def __post_init__(self) -> None:
        in_range(self.codec_id, "preset", self.preset, 0, 9)

    def _filters(self) -> list[dict[str, int]]:
        return [{"id": lzma.FILTER_LZMA2, "preset": self.preset, "lc": 0, "lp": 0, "pb": 0}]

    def encode(self, data: bytes) -> bytes:
        filters = self._filters()
        if len(data) <= _SMALL:
            # A preset's own window takes 50 ms to set up. Nothing of it is written, and a decoder's is
            # never smaller.
            filters[0]["dict_size"] = max(4096, len(data))
        return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)

    def decode(self, data: bytes, size: int) -> bytes:
        decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=self._filters())
        try:
            out = decompressor.decompress(data, max_length=size + 1)
        except lzma.LZMAError as e:
            raise damaged(self.codec_id, e) from e
        if len(out) <= size and (not decompressor.eof or decompressor.unused_data):
            raise damaged(self.codec_id, "it does not end where it should")
        return sized(out, size, self.codec_id)


@dataclass(frozen=True)
class Brotli:
    """Brotli (RFC 7932)."""

    codec_id: ClassVar[str] = "brotli"
    quality: int = 11
    lgwin: int = 24

    def __post_init__(self) -> None:
        in_range(self.codec_id, "quality", self.quality, 0, 11)
        in_range(self.codec_id, "lgwin", self.lgwin, 10, 24)

    def encode(self, data: bytes) -> bytes:
        import brotli

        return brotli.compress(data, quality=self.quality, lgwin=self.lgwin)

    def decode(self, data: bytes, size: int) -> bytes:
        import brotli

        decompressor = brotli.Decompressor()
        try:
            out = decompressor.process(data, output_buffer_limit=size + 1)
            # The limit may stop the decoder before it has taken in its last bytes.
            while not decompressor.is_finished() and len(out) <= size:
                more = decompressor.process(b"", output_buffer_limit=size + 1 - len(out))
                if not more:
                    break
                out += more
        except brotli.error as e:
            raise damaged(self.codec_id, e) from e
        if not decompressor.is_finished():
            raise damaged(self.codec_id, "it does not end where it should")
        return sized(out, size, self.codec_id)


# What most often wins comes first: `codec = "auto"` tries them in this order.
CODECS: dict[str, type[Any]] = {c.codec_id: c for c in (Brotli, Zstd, Lzma, Zlib, Store)}


def codec_config(codec: Codec) -> dict[str, Any]:
    """The codec as JSON: its id and its options."""
    return {"id": codec.codec_id, **asdict(codec)}  # type: ignore[call-overload]


def make_codec(config: dict[str, Any] | str) -> Codec:
    """The codec that `codec_config` described, or that a recipe names by id alone.

    Raises:
        UsageError: unknown id or option, or a value the codec does not take.
    """
    fields = dict(config) if isinstance(config, dict) else {"id": config}
    codec_id = fields.pop("id", None)
    if not isinstance(codec_id, str) or codec_id not in CODECS:
        raise UsageError(f"unknown codec {codec_id!r}", f"known codecs: {', '.join(CODECS)}")
    return make(CODECS[codec_id], fields, f"codec {codec_id!r}")
