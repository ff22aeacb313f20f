"""One row per tensor: where the bytes went and what the tensor lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log10, prod

import numpy as np

from golfpack.base.parallel import map_ordered
from golfpack.measure.tensor_bytes import SIDE_STREAMS, byte_shares
from golfpack.measure.tensor_errors import Errors, errors, excess_kurtosis
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.steps import LogSteps, StepField
from golfpack.packer.format.tensors import PackedTensor, QTensor
from golfpack.packer.format.trellis import STATES
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rate import entropy
from golfpack.spec import as_matrix

# Histograms end this many codes from zero; what lies beyond is counted at the ends.
HISTOGRAM_REACH = 64


@dataclass(frozen=True)
class Histogram:
    """How often each code occurs, for codes from -64 to 64; those beyond are counted at the ends.

    Attributes:
        first: the lowest code counted.
        counts: of `first`, `first` + 1, ...; 129 of them at most.
    """

    first: int
    counts: list[int]


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    Figures of codes are None for tensors kept as floats, errors where the float weights are not known,
    and what weighs errors by their effect where calibration did not measure it.

    Attributes:
        name: of the tensor in the checkpoint.
        role: what it does in the network.
        shape: its own.
        scheme: "int6 row", "ternary/128", "f16", ...
        bytes: its share of the file: of every coded stream, in proportion to what it has in it (codes
            by their entropy). All tensors' bytes and the file's fixed bytes add up to the file.
        side_bytes: the part of `bytes` that is steps and the order of sorted rows.
        bpw: bits per weight, 8 bytes / numel.
        entropy: order-0 entropy of its codes, bits per weight.
        zeros: fraction of codes that are 0.
        rel_err: |W - Wq| / |W| (Frobenius). Above 1 at few bits, where feedback moves errors to where
            inputs have no power; `hessian_err` is what inputs see.
        sqnr_db: signal to quantization noise, -20 log10(rel_err); None when exact, too.
        predicted_kl: expected KL increase it causes, nats per token, by the quadratic model.
        bits_over_rd: bpw above Shannon's R(D) of its Gaussian model at its distortion; scalar
            quantization with an ideal coder is 0.2546 above. Rows count as independent, each with one
            variance: below 0 where columns differ or tails are heavier, which the coder knows and the
            bound does not.
        block: index of the block it belongs to; None outside of blocks.
        step_min: the smallest step.
        step_max: the largest step.
        ones: fraction of codes that are 1 or -1.
        clipped: fraction of codes at the limit of the scheme; None where the scheme has none.
        kurtosis: excess kurtosis of the float weights: 0 for a Gaussian, 3 for a Laplacian.
        hessian_err: tr(E H E^T) / tr(W H W^T), E the error and H the Hessian.
        kl_share: of the sum of all tensors' predicted_kl.
        trace_h: tr H, the power of its inputs per token.
        dead_columns: inputs that calibration never saw active, H_ii = 0.
        worst_row: the row with the largest error relative to its size.
        worst_row_err: that error, |w - wq| / |w| of the row.
        fallback: what was done in place of what the recipe asks for, if anything.
        histogram: how often each code occurs.
        bits_over_two_sided: as `bits_over_rd` where rows depend on one another, as two-sided feedback
            has it; of matrices of at most 1,024 rows and columns.
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
    block: int | None = None
    step_min: float | None = None
    step_max: float | None = None
    ones: float | None = None
    clipped: float | None = None
    kurtosis: float | None = None
    hessian_err: float | None = None
    kl_share: float | None = None
    trace_h: float | None = None
    dead_columns: int | None = None
    worst_row: int | None = None
    worst_row_err: float | None = None
    fallback: str | None = None
    histogram: Histogram | None = None
    bits_over_two_sided: float | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of an artifact's tensors besides the artifact, by name; each may be missing.

    Attributes:
        blocks: the block a tensor belongs to.
        weights: the float weights that errors are measured against.
        sensitivity: of the build.
        in_nats: whether the sensitivity was measured with gradients, so that errors are a KL.
        limits: the largest code of a tensor's scheme.
        fallbacks: what was done in place of what the recipe asks for.
    """

    blocks: Mapping[str, int | None] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] | None = None
    sensitivity: Mapping[str, Sensitivity] = field(default_factory=dict)
    in_nats: bool = False
    limits: Mapping[str, int | None] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)


def tensor_reports(
    artifact: Artifact, known: Known | None = None, threads: int = 1
) -> list[TensorReport]:
    """Rows for every tensor of an artifact, in stored order; `threads` changes nothing but the time."""
    shares = byte_shares(artifact)
    facts = known or Known()

    def one(name: str) -> TensorReport:
        entry, tensor = artifact.tensors[name]
        size = sum(shares[name].values())
        row = TensorReport(
            name=name,
            role=entry.role,
            shape=entry.shape,
            scheme=scheme_label(tensor),
            bytes=size,
            side_bytes=sum(shares[name].get(s, 0) for s in SIDE_STREAMS),
            bpw=8 * size / max(prod(entry.shape), 1),
            entropy=None,
            zeros=None,
            block=facts.blocks.get(name),
            fallback=facts.fallbacks.get(name),
        )
        row = _with_codes(row, tensor, facts.limits.get(name))
        return _with_errors(row, tensor, facts)

    return _with_shares(list(map_ordered(one, artifact.tensors, threads)))


def _with_codes(row: TensorReport, tensor: PackedTensor, limit: int | None) -> TensorReport:
    """The row with the figures of its codes and steps."""
    if not isinstance(tensor, QTensor):
        return row
    low, high = _step_range(tensor.steps)
    row = replace(
        row,
        entropy=entropy(tensor.codes),
        step_min=low,
        step_max=high,
        histogram=histogram(tensor.codes),
    )
    if not tensor.codes.size:
        return row
    size = np.abs(tensor.codes)
    return replace(
        row,
        zeros=float(np.mean(size == 0)),
        ones=float(np.mean(size == 1)),
        clipped=None if limit is None else float(np.mean(size >= limit)),
    )


def _with_errors(row: TensorReport, tensor: PackedTensor, known: Known) -> TensorReport:
    """The row with what the tensor lost, where the float weights are known."""
    if known.weights is None:
        return row
    w = known.weights[row.name]
    w = w.reshape(as_matrix(w.shape))
    found: Errors = errors(tensor.dequantize().reshape(w.shape), w, known.sensitivity.get(row.name))
    return replace(
        row,
        rel_err=found.rel_err,
        sqnr_db=-20 * log10(found.rel_err) if found.rel_err else None,
        kurtosis=excess_kurtosis(w),
        worst_row=found.worst_row,
        worst_row_err=found.worst_row_err,
        hessian_err=found.hessian_err,
        trace_h=found.trace_h,
        dead_columns=found.dead_columns,
        predicted_kl=found.kl if known.in_nats else None,
        bits_over_rd=None if found.rate is None else row.bpw - found.rate,
        bits_over_two_sided=None
        if found.two_sided_rate is None
        else row.bpw - found.two_sided_rate,
    )


def _with_shares(rows: list[TensorReport]) -> list[TensorReport]:
    """The rows with their shares of the predicted KL."""
    total = sum(row.predicted_kl or 0.0 for row in rows)
    if total <= 0:
        return rows
    return [
        row if row.predicted_kl is None else replace(row, kl_share=row.predicted_kl / total)
        for row in rows
    ]


def _step_range(steps: StepField) -> tuple[float | None, float | None]:
    """The smallest and the largest step; None for a matrix without any."""
    if not steps.row.size or (steps.col is not None and not steps.col.size):
        return None, None
    low, high = float(steps.row.min()), float(steps.row.max())
    if steps.col is None:
        return low, high
    return low * float(steps.col.min()), high * float(steps.col.max())


def histogram(codes: np.ndarray) -> Histogram:
    """Counts of integer codes, those beyond +-HISTOGRAM_REACH at the ends."""
    if not codes.size:
        return Histogram(0, [])
    near = np.clip(codes, -HISTOGRAM_REACH, HISTOGRAM_REACH).ravel()
    first = int(near.min())
    return Histogram(first, np.bincount(near - first).tolist())


def scheme_label(tensor: PackedTensor) -> str:
    """What a tensor is: a float type, or the code width in use and the kind of steps.

    Steps of groups of columns are "/128", column steps "+col", codes with 8 states "+t8", a correction
    of rank 4 "+r4".
    """
    if not isinstance(tensor, QTensor):
        return tensor.dtype
    top = int(np.abs(tensor.codes).max(initial=0))
    width = "ternary" if top <= 1 else f"int{top.bit_length() + 1}"
    steps = " log" if isinstance(tensor.steps, LogSteps) else " row"
    if tensor.steps.group is not None:
        steps = f"/{tensor.steps.group}"
    columns = "" if tensor.steps.col is None else "+col"
    states = f"+t{STATES}" if tensor.states is not None else ""
    rank = "" if tensor.correction is None else f"+r{len(tensor.correction.a.codes)}"
    return width + steps + columns + states + rank
