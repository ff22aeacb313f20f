"""The way back, there and back again: the file golfpack would write for an artifact's tensors today."""

from typing import Any, cast

from golfpack.errors import CorruptError
from golfpack.packer.format.codestreams import ByteStream, CodeGroup, CodeStream, RansCodes
from golfpack.packer.format.container import TOKENIZER_STREAM, assemble
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import QTensor

# Keys of a manifest that `encode_tensors` and `assemble` write; the others say what the model is.
_WRITTEN = frozenset({"tensors", "codes", "side", "streams"})


def encode_again(artifact: Artifact) -> bytes:
    """The file for these tensors under the codings that the manifest names.

    It is the artifact byte for byte where the same encoders wrote it. Another version of a codec's
    library, or of golfpack, may have written other bytes that decode to the same tensors.
    """
    manifest = artifact.container.manifest
    codes: Any = manifest["codes"]
    listed: Any = [codes] if isinstance(codes, dict) else codes
    if not (isinstance(listed, list) and all(map(_is_coding, cast(list[Any], listed)))):
        raise CorruptError("the manifest's codes are no coding", None)
    configs = cast(list[dict[str, Any]], listed)
    groups: list[CodeGroup] = []
    for at, config in enumerate(configs):
        own = {
            name: entry
            for name, (entry, t) in artifact.tensors.items()
            if isinstance(t, QTensor) and entry.fields.get("stream", 0) == at
        }
        sort = frozenset(name for name, entry in own.items() if "sorted" in entry.fields)
        groups.append(CodeGroup(tuple(own), _stream(config), sort))
    entries = {name: entry for name, (entry, _) in artifact.tensors.items()}
    body, streams = encode_tensors(
        {name: t for name, (_, t) in artifact.tensors.items()},
        {name: entry.shape for name, entry in entries.items()},
        {name: entry.role for name, entry in entries.items()},
        groups,
        ByteStream.from_config(manifest["side"]),
    )
    head = {key: value for key, value in manifest.items() if key not in _WRITTEN}
    # What is no tensor stays as it is.
    kept = {n: d for n, d in artifact.container.streams.items() if n == TOKENIZER_STREAM}
    streams |= kept
    return assemble(head | body, streams)


def _is_coding(config: Any) -> bool:
    if not isinstance(config, dict):
        return False
    codec: Any = cast(dict[str, Any], config).get("codec")
    return isinstance(codec, dict) and isinstance(cast(dict[str, Any], codec).get("id"), str)


def _stream(config: dict[str, Any]) -> CodeStream:
    if config["codec"]["id"] == "rans":
        return RansCodes()
    return ByteStream.from_config(config)
