"""The document of `golfpack inspect`."""

from dataclasses import dataclass, field
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION
from golfpack.measure.tensors import TensorReport


@dataclass(frozen=True)
class InspectReport:
    """What `golfpack inspect` sees in an artifact or a checkpoint.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        bytes: its size.
        streams: coded bytes of every stream of an artifact, and "header", all that is no stream.
        tensors: a row each, in stored order.
        errors: where the tensors' errors come from: a float checkpoint, or the build's report beside
            the artifact; None where neither is known.
        notes: why a report beside the artifact was not used.
    """

    path: str
    sha256: str
    bytes: int
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    parameters: int
    streams: dict[str, int]
    tensors: list[TensorReport]
    errors: str | None = None
    notes: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
