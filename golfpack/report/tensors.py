"""One row per tensor: where the bytes went and what the tensor lost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log10, prod

import numpy as np

from golfpack.packer.codestreams import code_matrices
from golfpack.packer.ir import PackedTensor, QTensor, as_matrix
from golfpack.packer.loader import Artifact
from golfpack.packer.parallel import map_ordered
from golfpack.packer.quantize.bound import gaussian_rate
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rate import entropy
from golfpack.packer.stepcoding import row_bytes, step_counts
from golfpack.packer.steps import LogSteps
from golfpack.packer.streams import Entry

# Streams that hold what codes need besides themselves.
_SIDE = ("rows", "cols", "perms")


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    Attributes:
        scheme: "int6", "rd", "f16", ...
        bytes: its share of the file: of every coded stream, in proportion to what it has in it (codes
            by their entropy).
        side_bytes: the part of `bytes` that is steps and the order of sorted rows.
        bpw: bits per weight, 8 bytes / numel.
        entropy: order-0 entropy of its codes, bits per weight; None for kept floats.
        zeros: fraction of codes that are 0; None for kept floats.
        rel_err: |W - Wq| / |W| (Frobenius); None without the float weights.
        sqnr_db: signal to quantisation noise, -20 log10(rel_err); None when exact or unknown.
        predicted_kl: expected KL increase it causes, nats per token, by the quadratic model; None
            without calibration.
        bits_over_rd: bpw above Shannon's R(D) of its Gaussian model at its distortion; scalar
            quantisation with an ideal coder is 0.2546 above. None without a Hessian.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    scheme: str
    bytes: int
    side_bytes: int
    bpw: float
    entropy: float | None
    zeros: float | None
    rel_err: float | None = None
    sqnr_db: float | None = None
    predicted_kl: float | None = None
    bits_over_rd: float | None = None


@dataclass(frozen=True)
class _Losses:
    rel_err: float | None = None
    predicted_kl: float | None = None
    rate: float | None = None


def tensor_reports(
    artifact: Artifact,
    weights: Mapping[str, np.ndarray] | None = None,
    sensitivity: Mapping[str, Sensitivity] | None = None,
    threads: int = 1,
) -> list[TensorReport]:
    """Rows for every tensor of an artifact, in stored order.

    Args:
        weights: the float weights, for the errors.
        sensitivity: of the build, for the predicted KL and the distance to R(D).
        threads: changes nothing but the time.
    """
    shares = _byte_shares(artifact)

    def lost(name: str) -> _Losses:
        if weights is None:
            return _Losses()
        return _losses(artifact.tensors[name][1], weights[name], (sensitivity or {}).get(name))

    rows = []
    found = map_ordered(lost, artifact.tensors, threads)
    for (name, (entry, tensor)), losses in zip(artifact.tensors.items(), found, strict=True):
        codes = tensor.codes if isinstance(tensor, QTensor) else None
        size = sum(shares[name].values())
        bpw = 8 * size / max(prod(entry.shape), 1)
        rows.append(
            TensorReport(
                name=name,
                role=entry.role,
                shape=entry.shape,
                scheme=scheme_label(tensor),
                bytes=round(size),
                side_bytes=round(sum(shares[name].get(s, 0.0) for s in _SIDE)),
                bpw=bpw,
                entropy=None if codes is None else entropy(codes),
                zeros=None if codes is None or not codes.size else float(np.mean(codes == 0)),
                rel_err=losses.rel_err,
                sqnr_db=-20 * log10(losses.rel_err) if losses.rel_err else None,
                predicted_kl=losses.predicted_kl,
                bits_over_rd=None if losses.rate is None else bpw - losses.rate,
            )
        )
    return rows


def _losses(tensor: PackedTensor, w: np.ndarray, sensitivity: Sensitivity | None) -> _Losses:
    error = tensor.dequantize().reshape(w.shape) - w
    rel_err = _relative(error, w)
    if sensitivity is None:
        return _Losses(rel_err)
    shape = as_matrix(w.shape)
    error = error.reshape(shape)
    kl, rate = sensitivity.kl(error), None
    if sensitivity.measured and sensitivity.hessian is not None:
        diagonal = replace(sensitivity, row_cov=None)
        distortion = 2 * diagonal.kl(error)
        rate = gaussian_rate(w.reshape(shape), diagonal, distortion) if distortion > 0 else None
    return _Losses(rel_err, kl, rate)


def scheme_label(tensor: PackedTensor) -> str:
    """What a tensor is: a float type, or the code width in use and the kind of steps.

    Steps of groups of columns are "/128", column steps "+col", a correction of rank 4 "+r4".
    """
    if not isinstance(tensor, QTensor):
        return tensor.dtype
    top = int(np.abs(tensor.codes).max(initial=0))
    width = "ternary" if top <= 1 else f"int{top.bit_length() + 1}"
    steps = " log" if isinstance(tensor.steps, LogSteps) else " row"
    if tensor.steps.group is not None:
        steps = f"/{tensor.steps.group}"
    columns = "" if tensor.steps.col is None else "+col"
    rank = "" if tensor.correction is None else f"+r{len(tensor.correction.a.codes)}"
    return width + steps + columns + rank


def _relative(error: np.ndarray, w: np.ndarray) -> float:
    norm = float(np.linalg.norm(w.astype(np.float64)))
    return float(np.linalg.norm(error.astype(np.float64))) / norm if norm else 0.0


def _byte_shares(artifact: Artifact) -> dict[str, dict[str, float]]:
    """Bytes per tensor and stream: every stream split in proportion to what each tensor has in it."""
    held: dict[str, dict[str, float]] = {}
    for name, (entry, t) in artifact.tensors.items():
        for stream, part in _held(entry, t).items():
            held.setdefault(stream, {})[name] = part
    shares: dict[str, dict[str, float]] = {name: {} for name in artifact.tensors}
    for stream, parts in held.items():
        size, total = len(artifact.container.streams.get(stream, b"")), sum(parts.values())
        for name, part in parts.items():
            shares[name][stream] = size * part / total if total else 0.0
    return shares


def _held(entry: Entry, t: PackedTensor) -> dict[str, float]:
    """What a tensor has in each stream: bits of codes by their entropy, bytes of all else."""
    if not isinstance(t, QTensor):
        return {"raw": t.values.nbytes}
    matrices = code_matrices(t)
    counts = [step_counts(fields, shape) for shape, fields in entry.matrices]
    return {
        # One bit more, so that codes that are all zero own their stream's few bytes.
        entry.code_stream: 1 + sum(entropy(m.codes) * m.codes.size for m in matrices),
        "rows": sum(row_bytes(fields, shape) for shape, fields in entry.matrices),
        "cols": sum(cols for _, cols in counts),
        "perms": sum(s[0] for s, fields in entry.matrices if "sorted" in fields),
    }
