# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy has no types)
"""How few bits a tensor could take at its distortion: Shannon's R(D) of its Gaussian model.

Row r is Gaussian with the row's own variance s_r, and errors cost row_weight[r] e_r H e_r^T. In H's
eigenbasis (eigenvalues l_j) the components (r, j) are independent with weighted variance
v_rj = row_weight[r] s_r l_j, so reverse water-filling gives (Cover & Thomas, Elements of Information
Theory, section 10.3.3) D = sum min(v_rj, theta), R = sum max(0, 1/2 log2(v_rj / theta)). Where errors of
different rows add up, as tr(B E H E^T), the eigenbases of both sides take the place of rows.
"""

import numpy as np

from golfpack.packer.quantize.sensitivity import Sensitivity

# Rows looked at, evenly spread: their variances differ smoothly.
ROWS = 64
# The longest side whose eigenvectors are worked out: 1,024 take half a second.
MOST = 1024


def gaussian_rate(w: np.ndarray, sensitivity: Sensitivity, distortion: float) -> float:
    """R(D) in bits per weight.

    Args:
        w: (rows, cols) float weights.
        sensitivity: of the tensor; rows count as independent.
        distortion: sum over rows of row_weight[r] e_r H e_r^T, above 0.
    """
    rows, cols = w.shape
    eigenvalues = np.ones(cols)
    if sensitivity.hessian is not None:
        h = np.asarray(sensitivity.hessian, np.float64)
        eigenvalues = np.maximum(np.linalg.eigvalsh((h + h.T) / 2), 0.0)
    picked = np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(np.int64))
    power = np.mean(np.square(w[picked].astype(np.float64)), axis=1)
    v = np.outer(sensitivity.row_weight[picked] * power, eigenvalues)
    share = distortion * len(picked) / rows
    return _filled(v, share) / (len(picked) * cols)


def two_sided_rate(w: np.ndarray, sensitivity: Sensitivity, distortion: float) -> float | None:
    """R(D) in bits per weight where rows depend on one another, too.

    None where they do not, or where the eigenvectors of a side beyond MOST take too long.

    The weights in the eigenbases of B and H are independent Gaussians whose variances are a row's times
    a column's; errors there cost the product of both eigenvalues.

    Args:
        w: (rows, cols) float weights.
        sensitivity: of the tensor.
        distortion: tr(B E H E^T), above 0.
    """
    if sensitivity.row_cov is None or sensitivity.hessian is None or max(w.shape) > MOST:
        return None
    (b, of_rows), (h, of_cols) = _eigen(sensitivity.row_cov), _eigen(sensitivity.hessian)
    power = np.square(of_rows.T @ w.astype(np.float64) @ of_cols)
    whole = float(power.mean())
    if whole <= 0:
        return 0.0
    v = np.outer(power.mean(1) * b, power.mean(0) * h) / whole
    return _filled(v, distortion) / w.size


def _eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, none below 0, and eigenvectors as columns."""
    m = np.asarray(matrix, np.float64)
    values, vectors = np.linalg.eigh((m + m.T) / 2)
    return np.maximum(values, 0.0), vectors


def _filled(v: np.ndarray, distortion: float) -> float:
    """Bits of independent components of variances `v` at a sum of distortions: water-filling."""
    v = v[v > 0]
    if not v.size or distortion >= v.sum():
        return 0.0
    low, high = np.log(v.min()) - 200.0, float(np.log(v.max()))
    for _ in range(100):
        theta = np.exp((low + high) / 2)
        if np.minimum(v, theta).sum() > distortion:
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return float(np.maximum(0.0, 0.5 * np.log2(v / np.exp(low))).sum())
