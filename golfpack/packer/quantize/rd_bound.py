# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy has no types)
"""How few bits a tensor could take at its distortion: Shannon's R(D) of its Gaussian model.

Row r is Gaussian with the row's own variance s_r, and errors cost row_weight[r] e_r H e_r^T. In H's
eigenbasis (eigenvalues l_j) the components (r, j) are independent with weighted variance
v_rj = row_weight[r] s_r l_j, so reverse water-filling gives (Cover & Thomas, Elements of Information
Theory, section 10.3.3) D = sum min(v_rj, theta), R = sum max(0, 1/2 log2(v_rj / theta)).
"""

import numpy as np

from golfpack.packer.quantize.sensitivity import Sensitivity

# Rows looked at, evenly spread: their variances differ smoothly.
ROWS = 64


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
    v = v[v > 0]
    share = distortion * len(picked) / rows
    if not v.size or share >= v.sum():
        return 0.0
    low, high = np.log(v.min()) - 200.0, float(np.log(v.max()))
    for _ in range(100):
        theta = np.exp((low + high) / 2)
        if np.minimum(v, theta).sum() > share:
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    theta = np.exp(low)
    return float(np.maximum(0.0, 0.5 * np.log2(v / theta)).sum()) / (len(picked) * cols)
