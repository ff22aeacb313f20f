"""Read an artifact back: `.golf` file -> tensors -> float32 weights. numpy and the codecs only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.errors import CorruptError, UsageError, unreadable
from golfpack.packer.format.attached import TokenizerFile, read_attached
from golfpack.packer.format.container import MAGIC, Container, parse
from golfpack.packer.format.streams import Entry, decode_tensors
from golfpack.packer.format.tensors import PackedTensor


@dataclass(frozen=True, eq=False)
class Artifact:
    """A decoded artifact.

    Attributes:
        container: framing, manifest, sizes, sha256.
        tensors: name -> (manifest entry, quantized or raw tensor), in stored order.
        tokenizer: the model's, where it is inside.
    """

    container: Container
    tensors: dict[str, tuple[Entry, PackedTensor]]
    tokenizer: TokenizerFile | None = None

    @property
    def family(self) -> str:
        return self.container.manifest["family"]

    @property
    def config(self) -> dict[str, Any]:
        return self.container.manifest["config"]

    def weights(self) -> dict[str, np.ndarray]:
        """Name -> float32 array in the tensor's own shape."""
        return {n: t.dequantize().reshape(e.shape) for n, (e, t) in self.tensors.items()}


def loads(blob: bytes) -> Artifact:
    """Decode an artifact held in memory. Raises CorruptError when it is not one, or damaged."""
    container = parse(blob)
    manifest = container.manifest
    if not isinstance(manifest.get("family"), str) or not isinstance(manifest.get("config"), dict):
        raise CorruptError("the manifest names no model family", None)
    try:
        tensors = decode_tensors(manifest, container.weight_streams, container.version)
        return Artifact(container, tensors, read_attached(container))
    except UsageError as e:  # an unknown codec here is the file's fault, not the user's
        raise CorruptError(f"the artifact cannot be decoded: {e.message}", e.hint) from e


def load(path: Path) -> Artifact:
    """Decode an artifact file. Raises UsageError when it cannot be read, CorruptError as `loads`."""
    try:
        blob = Path(path).read_bytes()
    except OSError as e:
        raise unreadable(Path(path), e) from e
    return loads(blob)


def is_artifact(path: Path) -> bool:
    """Whether a file starts like an artifact (False when it cannot be read)."""
    try:
        with Path(path).open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
