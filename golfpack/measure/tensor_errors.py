"""What quantizing a tensor changed, in plain numbers and as its inputs and outputs weigh it."""

from dataclasses import dataclass, replace

import numpy as np

from golfpack.packer.quantize.rd_bound import gaussian_rate, two_sided_rate
from golfpack.packer.quantize.sensitivity import Sensitivity


@dataclass(frozen=True)
class Errors:
    """Errors of one tensor; see `TensorReport`. None where nothing was measured.

    Attributes:
        kl: by the quadratic model, in nats per token where gradients were measured.
        rate: Shannon's R(D) of the tensor's Gaussian model at its distortion, bits per weight; rows
            count as independent.
        two_sided_rate: the same of dependent rows.
    """

    rel_err: float
    worst_row: int | None
    worst_row_err: float | None
    kl: float | None = None
    rate: float | None = None
    two_sided_rate: float | None = None
    hessian_err: float | None = None
    trace_h: float | None = None
    dead_columns: int | None = None


def errors(quantized: np.ndarray, w: np.ndarray, sensitivity: Sensitivity | None) -> Errors:
    """Errors of `quantized` (rows, cols) against the float weights `w`, both float32."""
    error = quantized - w
    power = _row_sums(error, error)
    size = _row_sums(w, w)
    worst, worst_err = _worst_row(power, size)
    plain = Errors(_root_ratio(power.sum(), size.sum()), worst, worst_err)
    if sensitivity is None or not sensitivity.measured:
        return plain
    e = error.astype(np.float64)
    he = sensitivity.through_hessian(e)
    kl = sensitivity.kl_through(he, e)
    plain = replace(plain, kl=kl)
    hessian = sensitivity.hessian
    if hessian is None:
        return plain
    rows = _row_sums(he, e)
    wide = w.astype(np.float64)
    signal = float(np.vdot(sensitivity.through_hessian(wide), wide))
    distortion = float(sensitivity.row_weight @ rows)
    # Rows count as independent in the bound, whatever their covariance.
    independent = replace(sensitivity, row_cov=None)
    diagonal = hessian.diagonal()
    return replace(
        plain,
        rate=gaussian_rate(w, independent, distortion) if distortion > 0 else None,
        two_sided_rate=two_sided_rate(w, sensitivity, 2 * kl) if kl > 0 else None,
        hessian_err=float(rows.sum()) / signal if signal > 0 else None,
        trace_h=float(diagonal.sum(dtype=np.float64)),
        dead_columns=int(np.count_nonzero(diagonal == 0)),
    )


def excess_kurtosis(w: np.ndarray) -> float | None:
    """Fourth central moment over the squared variance, minus 3; None for constant weights."""
    if not w.size:
        return None
    square = np.square(w.astype(np.float64) - w.mean(dtype=np.float64))
    variance = float(square.mean())
    return float(np.square(square).mean()) / variance**2 - 3.0 if variance > 0 else None


def _row_sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(rows,) float64 sums of products."""
    return np.einsum("ri,ri->r", a, b, dtype=np.float64)


def _root_ratio(part: float, whole: float) -> float:
    return float(np.sqrt(part / whole)) if whole > 0 else 0.0


def _worst_row(power: np.ndarray, size: np.ndarray) -> tuple[int | None, float | None]:
    """The row of the largest relative error, and that error; rows of zeros do not count."""
    some = size > 0
    if not some.any():
        return None, None
    ratio = np.where(some, power / np.where(some, size, 1.0), -1.0)
    worst = int(ratio.argmax())
    return worst, float(np.sqrt(ratio[worst]))
