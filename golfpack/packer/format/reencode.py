"""The way back, there and back again: the file golfpack would write for an artifact's tensors today."""

from typing import Any

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
    configs: list[dict[str, Any]] = [codes] if isinstance(codes, dict) else codes
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


def _stream(config: dict[str, Any]) -> CodeStream:
    if config["codec"]["id"] == "rans":
        return RansCodes()
    return ByteStream.from_config(config)
