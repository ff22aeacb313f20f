"""The `.golf` file: framing, manifest and streams. docs/format.md specifies it byte by byte.

    magic, version | manifest | digests | streams ... | sha256 of everything before

This module knows bytes and JSON; what the streams mean is `loader.py` (and `streams.py`, which writes
them). Every length is checked against the file's size before anything is read or allocated.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from golfpack.base.files import ARTIFACT_MAGIC
from golfpack.errors import CorruptError
from golfpack.packer.format.codec import Codec
from golfpack.packer.format.codecs import Brotli, Lzma

MAGIC = ARTIFACT_MAGIC
# The stream that holds no weights: the model's tokenizer (`attached.py`).
TOKENIZER_STREAM = "tokenizer"
# magic, version, manifest bytes as stored, manifest bytes as JSON.
HEADER = struct.Struct("<4sIII")
DIGEST = 32


@dataclass(frozen=True)
class Version:
    """What one version of the format has of its own.

    Attributes:
        manifest: its codec.
        part_digest: bytes of each stream's sha256 that are kept: that of the whole file guards it, and
            these only tell which part is damaged.
    """

    manifest: Codec
    part_digest: int


VERSIONS = {
    1: Version(Brotli(), 32),
    2: Version(Lzma(6), 8),
    3: Version(Lzma(6), 8),
    4: Version(Lzma(6), 8),
}
# What is written.
VERSION = 4
# Hard limits, far above any real artifact: what a hostile header can make us allocate.
MAX_MANIFEST = 1 << 24
MAX_STREAM = 1 << 33

_AGAIN = "get the file again and compare its sha256; a build writes it whole or not at all"


@dataclass(frozen=True)
class Container:
    """A parsed file whose digests all match.

    Attributes:
        manifest: the JSON object.
        streams: stream name -> coded bytes.
        sha256: hex digest of the whole file.
        size: bytes of the whole file.
        version: of the format.
        overhead: bytes that are no weights (header, manifest, digests, tokenizer).
    """

    manifest: dict[str, Any]
    streams: dict[str, bytes]
    sha256: str
    size: int
    version: int

    @property
    def overhead(self) -> int:
        return self.size - sum(len(s) for s in self.weight_streams.values())

    @property
    def weight_streams(self) -> dict[str, bytes]:
        """The streams that tensors are decoded from."""
        return {n: data for n, data in self.streams.items() if n != TOKENIZER_STREAM}


def assemble(
    manifest: Mapping[str, Any], streams: Mapping[str, bytes], version: int = VERSION
) -> bytes:
    """The whole file. The manifest gains "streams": [[name, bytes], ...] in the given order.

    Equal input gives equal bytes: canonical JSON, no timestamps, no holes.
    """
    body = {**manifest, "streams": [[name, len(data)] for name, data in streams.items()]}
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
    form = VERSIONS[version]
    packed = form.manifest.encode(text)
    parts = [HEADER.pack(MAGIC, version, len(packed), len(text)), packed]
    parts += [hashlib.sha256(data).digest()[: form.part_digest] for data in streams.values()]
    parts += streams.values()
    blob = b"".join(parts)
    return blob + hashlib.sha256(blob).digest()


@dataclass(frozen=True)
class Frame:
    """How a file is divided, before any digest is looked at.

    Attributes:
        manifest: the JSON object.
        parts: of each stream its name, its bytes, and the beginning of their sha256 that the file gives.
        digest: the sha256 that the file gives for everything before it.
        version: of the format.
    """

    manifest: dict[str, Any]
    parts: list[tuple[str, bytes, bytes]]
    digest: bytes
    version: int


def divide(blob: bytes) -> Frame:
    """Find manifest, streams and digests.

    Raises:
        CorruptError: not an artifact, a version we do not know, or another length than it says.
    """
    if len(blob) < HEADER.size + DIGEST or blob[:4] != MAGIC:
        raise CorruptError("this is not a .golf artifact (no GOLF magic)", _AGAIN)
    _, version, packed_size, text_size = HEADER.unpack_from(blob)
    if version not in VERSIONS:
        raise CorruptError(
            f"artifact format version {version}; this reads {' and '.join(map(str, VERSIONS))} only",
            "use the golfpack that wrote it, or a newer one",
        )
    form = VERSIONS[version]
    start = HEADER.size + packed_size
    if text_size > MAX_MANIFEST or start > len(blob) - DIGEST:
        raise CorruptError("the manifest is longer than the file: truncated?", _AGAIN)
    # The manifest tells how long the file ought to be, so it is read before the whole is hashed:
    # "truncated by 17 bytes" helps more than "the digest differs".
    manifest = _manifest(blob[HEADER.size : start], text_size, form.manifest)
    layout = _layout(manifest)
    bodies = start + form.part_digest * len(layout)
    expected = bodies + sum(size for _, size in layout) + DIGEST
    if expected != len(blob):
        raise CorruptError(
            f"the file has {len(blob):,} bytes, its manifest says {expected:,}: "
            + ("truncated copy?" if len(blob) < expected else "something was appended"),
            _AGAIN,
        )
    parts: list[tuple[str, bytes, bytes]] = []
    at, digest_at = bodies, start
    for name, size in layout:
        digest = blob[digest_at : digest_at + form.part_digest]
        parts.append((name, blob[at : at + size], digest))
        at, digest_at = at + size, digest_at + form.part_digest
    return Frame(manifest, parts, blob[-DIGEST:], version)


def parse(blob: bytes) -> Container:
    """Check a file's framing and every digest.

    Raises:
        CorruptError: as `divide`, or a digest does not match.
    """
    frame = divide(blob)
    for name, data, digest in frame.parts:
        if hashlib.sha256(data).digest()[: len(digest)] != digest:
            raise CorruptError(f"stream {name!r} does not match its sha256", _AGAIN)
    if hashlib.sha256(blob[:-DIGEST]).digest() != frame.digest:
        raise CorruptError("the file does not match its sha256", _AGAIN)
    streams = {name: data for name, data, _ in frame.parts}
    sha256 = hashlib.sha256(blob).hexdigest()
    return Container(frame.manifest, streams, sha256, len(blob), frame.version)


def _manifest(packed: bytes, size: int, codec: Codec) -> dict[str, Any]:
    try:
        manifest: Any = json.loads(codec.decode(packed, size))
    except (ValueError, RecursionError, CorruptError) as e:
        raise CorruptError("the manifest is damaged", _AGAIN) from e
    if not isinstance(manifest, dict):
        raise CorruptError("the manifest is not an object", _AGAIN)
    return cast(dict[str, Any], manifest)


def _layout(manifest: dict[str, Any]) -> list[tuple[str, int]]:
    layout: Any = manifest.get("streams")
    if not isinstance(layout, list) or not all(map(_is_stream, cast(list[Any], layout))):
        raise CorruptError("the manifest's list of streams makes no sense", _AGAIN)
    found = [(str(name), int(size)) for name, size in cast(list[Any], layout)]
    if len({name for name, _ in found}) != len(found):
        raise CorruptError("the manifest lists a stream twice", _AGAIN)
    return found


def _is_stream(entry: Any) -> bool:
    if not isinstance(entry, list) or len(cast(list[Any], entry)) != 2:
        return False
    name, size = cast(list[Any], entry)
    return isinstance(name, str) and type(size) is int and 0 <= size <= MAX_STREAM
