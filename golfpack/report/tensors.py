"""One row per tensor: where the bytes went and what the tensor lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10

import numpy as np

from golfpack.packer.ir import PackedTensor, QTensor
from golfpack.packer.loader import Artifact
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rate import entropy
from golfpack.packer.streams import Entry


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    Attributes:
        scheme: "int6", "rd", "f16", ...
        bytes: its share of the file: its own steps, and its share of the coded streams by entropy.
        bpw: bits per weight, 8 bytes / numel.
        entropy: order-0 entropy of its codes, bits per weight; None for kept floats.
        zeros: fraction of codes that are 0; None for kept floats.
        rel_err: |W - Wq| / |W| (Frobenius); None without the float weights.
        sqnr_db: signal to quantisation noise, -20 log10(rel_err); None when exact or unknown.
        predicted_kl: expected KL increase it causes, nats per token; None without calibration.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    scheme: str
    bytes: int
    bpw: float
    entropy: float | None
    zeros: float | None
    rel_err: float | None = None
    sqnr_db: float | None = None
    predicted_kl: float | None = None


def tensor_reports(
    artifact: Artifact,
    weights: Mapping[str, np.ndarray] | None = None,
    sensitivity: Mapping[str, Sensitivity] | None = None,
) -> list[TensorReport]:
    """Rows for every tensor of an artifact, in stored order.

    Args:
        weights: the float weights, for the errors.
        sensitivity: of the build, for the predicted KL.
    """
    shares = _byte_shares(artifact)
    rows = []
    for name, (entry, tensor) in artifact.tensors.items():
        numel = max(tensor.dequantize().size, 1)
        rel_err = kl = None
        if weights is not None:
            error = tensor.dequantize().reshape(entry.shape) - weights[name]
            rel_err = _relative(error, weights[name])
            if sensitivity is not None and name in sensitivity:
                kl = sensitivity[name].kl(error.reshape(-1, error.shape[-1]))
        codes = tensor.codes if isinstance(tensor, QTensor) else None
        rows.append(
            TensorReport(
                name=name,
                role=entry.role,
                shape=entry.shape,
                scheme=scheme_label(entry, tensor),
                bytes=round(shares[name]),
                bpw=8 * shares[name] / numel,
                entropy=None if codes is None else entropy(codes),
                zeros=None if codes is None else float(np.mean(codes == 0)),
                rel_err=rel_err,
                sqnr_db=-20 * log10(rel_err) if rel_err else None,
                predicted_kl=kl,
            )
        )
    return rows


def scheme_label(entry: Entry, tensor: PackedTensor) -> str:
    """What the file says a tensor is: a float type, the code width in use, and the kind of steps."""
    if not isinstance(tensor, QTensor):
        return tensor.dtype
    top = int(np.abs(tensor.codes).max(initial=0))
    steps = "row" if entry.fields["rows"] == "f16" else "log"
    return f"int{top.bit_length() + 1} {steps}{'+col' if 'cols' in entry.fields else ''}"


def _relative(error: np.ndarray, w: np.ndarray) -> float:
    norm = float(np.linalg.norm(w.astype(np.float64)))
    return float(np.linalg.norm(error.astype(np.float64))) / norm if norm else 0.0


def _byte_shares(artifact: Artifact) -> dict[str, float]:
    """Bytes per tensor: every stream split in proportion to what each tensor has in it."""
    streams = artifact.container.streams
    weight: dict[str, dict[str, float]] = {"codes": {}, "rows": {}, "cols": {}, "raw": {}}
    for name, (_, t) in artifact.tensors.items():
        if isinstance(t, QTensor):
            weight["codes"][name] = entropy(t.codes) * t.codes.size
            weight["rows"][name] = len(t.steps.row)
            weight["cols"][name] = 0 if t.steps.col is None else len(t.steps.col)
        else:
            weight["raw"][name] = t.values.nbytes
    shares = dict.fromkeys(artifact.tensors, 0.0)
    for stream, parts in weight.items():
        total = sum(parts.values())
        for name, part in parts.items():
            if total:
                shares[name] += len(streams.get(stream, b"")) * part / total
    return shares
