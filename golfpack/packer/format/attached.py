"""The tokenizer inside an artifact: one stream, and what the manifest says of it.

    "tokenizer": {"name": "tokenizer.json", "bytes": 1234567, "codec": {"id": "lzma", "preset": 9}}

An artifact has both or neither. Readers of weights alone pass over them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from golfpack.errors import CorruptError
from golfpack.packer.format.codecs import Lzma, codec_config, make_codec
from golfpack.packer.format.container import TOKENIZER_STREAM, Container

# Far above any real tokenizer: what a hostile manifest can make us allocate.
MAX_TOKENIZER = 1 << 27
_CODEC = Lzma(9)
_NONSENSE = "the manifest's entry of the tokenizer makes no sense"


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer as it ships.

    Attributes:
        name: of the file it came from, without its folder.
        data: what `data.tokenizer.read_tokenizer` reads.
    """

    name: str
    data: bytes

    @cached_property
    def coded(self) -> bytes:
        """The stream."""
        return _CODEC.encode(self.data)

    def config(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {"name": self.name, "bytes": len(self.data), "codec": codec_config(_CODEC)}


def tokenizer_parts(
    tokenizer: TokenizerFile | None,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a tokenizer adds to the manifest and to the streams; nothing for None."""
    if tokenizer is None:
        return {}, {}
    return {TOKENIZER_STREAM: tokenizer.config()}, {TOKENIZER_STREAM: tokenizer.coded}


def read_attached(container: Container) -> TokenizerFile | None:
    """The tokenizer in an artifact, or None.

    Raises:
        CorruptError: an entry without its stream, a stream without its entry, or a damaged one.
        UsageError: a codec that this golfpack does not have.
    """
    entry: Any = container.manifest.get(TOKENIZER_STREAM)
    coded = container.streams.get(TOKENIZER_STREAM)
    if entry is None and coded is None:
        return None
    if coded is None or not isinstance(entry, dict):
        raise CorruptError("the manifest and the streams disagree on a tokenizer")
    fields = cast(Mapping[str, Any], entry)
    name, size, codec = fields.get("name"), fields.get("bytes"), fields.get("codec")
    if not isinstance(name, str) or not isinstance(size, int) or not isinstance(codec, dict):
        raise CorruptError(_NONSENSE)
    if isinstance(size, bool) or not 0 <= size <= MAX_TOKENIZER:
        raise CorruptError(_NONSENSE)
    return TokenizerFile(name, make_codec(cast(dict[str, Any], codec)).decode(coded, size))
