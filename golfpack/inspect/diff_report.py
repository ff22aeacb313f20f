"""The document of `golfpack diff`: what changed between two files, in all and tensor by tensor."""

from dataclasses import dataclass, field
from typing import Any, Literal

from golfpack.base.documents import SCHEMA_VERSION

Kind = Literal["artifact", "report", "checkpoint"]


@dataclass(frozen=True)
class DiffSide:
    """One of the two files.

    Attributes:
        path: of the file.
        kind: what it is.
        report: the build report beside an artifact that tells its KL, recipe and versions; None where
            there is none, or where it is of another file.
        bytes: of the file; of the artifact, for a report.
        sha256: of the same.
        facts: everything overall that is compared, by name.
    """

    path: str
    kind: Kind
    report: str | None
    bytes: int
    sha256: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """Something overall that is not the same.

    Attributes:
        what: its name.
        a: what the first file says; None where it does not.
        b: the same of the second.
    """

    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorSide:
    """A tensor on one side.

    Attributes:
        role: what it does in the network.
        shape: its own.
        scheme: as `inspect` shows it; the float type in a checkpoint.
        bytes: its share of the artifact, or its size in a checkpoint.
        bpw: bits per weight, 8 bytes / numel.
        rel_err: against the float weights; None where nobody measured it.
    """

    role: str
    shape: list[int]
    scheme: str
    bytes: int
    bpw: float
    rel_err: float | None


@dataclass(frozen=True)
class TensorDiff:
    """A tensor that is not the same on both sides.

    Attributes:
        name: of the tensor.
        a: in the first file; None where it is missing.
        b: the same in the second.
        weights: |b - a| / |a| (Frobenius); None unless both files hold weights, of one shape.
        codes: fraction of codes that differ; None unless both are quantized, in one shape.
        steps: whether the step fields differ; None as for `codes`.
    """

    name: str
    a: TensorSide | None
    b: TensorSide | None
    weights: float | None = None
    codes: float | None = None
    steps: bool | None = None


@dataclass(frozen=True)
class DiffReport:
    """What `golfpack diff` found.

    Attributes:
        a: the first file.
        b: the second.
        same: whether nothing differs, the paths aside.
        changes: what differs overall.
        tensors: those that differ, the largest change of bytes first.
        unchanged: how many do not.
    """

    a: DiffSide
    b: DiffSide
    same: bool
    changes: list[Change]
    tensors: list[TensorDiff]
    unchanged: int
    argv: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
