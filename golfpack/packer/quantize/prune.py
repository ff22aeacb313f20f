"""Which +-1 codes to set to zero: least added error per saved bit.

Zeroing the code of weight (r, j) changes the error by -v, v = +-step, and the expected KL
1/2 tr(B E H E^T) by -v (B E H)_rj + 1/2 B_rr v^2 H_jj. The first term is what error feedback left
behind: GPTQ balances errors within a row, and a price that looks at steps alone (the records') pays
for breaking that balance without knowing it. Zeroing several codes of a row changes the prices of the
others, so codes are taken in several helpings, with new prices after each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from golfpack.packer.ir import QTensor
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.steps import spread_rows


@dataclass(frozen=True, eq=False)
class Ones:
    """+-1 codes in the order in which they are to go.

    Attributes:
        names: tensors, by number.
        tensor: (n,) the number of each code's tensor.
        position: (n,) its flat position in the codes.
        saved_bits: (n,) what an order-0 coder saves by it.
    """

    names: tuple[str, ...]
    tensor: np.ndarray
    position: np.ndarray
    saved_bits: np.ndarray

    def without(self, tensors: Mapping[str, QTensor], count: int) -> dict[str, QTensor]:
        """The tensors with the first `count` of these codes set to zero."""
        out = dict(tensors)
        for i, name in enumerate(self.names):
            gone = self.position[:count][self.tensor[:count] == i]
            if len(gone):
                codes = tensors[name].codes.copy()
                codes.reshape(-1)[gone] = 0
                out[name] = replace(tensors[name], codes=codes)
        return out


def order_ones(
    tensors: Mapping[str, QTensor],
    weights: Mapping[str, np.ndarray],
    sensitivity: Mapping[str, Sensitivity],
    saved_bits: float,
    helpings: int,
) -> Ones:
    """The +-1 codes that save `saved_bits` for the least added KL, best first.

    Args:
        tensors: quantised tensors.
        weights: their float weights, (rows, cols) each.
        saved_bits: stop there, by the order-0 estimate, or where no code is left that saves anything.
        helpings: how often prices are worked out anew on the way.
    """
    names = tuple(tensors)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    done, left = dict(tensors), saved_bits
    for helping in range(helpings):
        found = [_priced(done[n], weights[n], sensitivity[n]) for n in names]
        counts = [len(f[0]) for f in found]
        tensor = np.repeat(np.arange(len(names)), counts)
        position, cost, bits = (np.concatenate([f[i] for f in found]) for i in range(3))
        order = np.argsort(cost / bits, kind="stable")
        share = left / (helpings - helping)
        taken = order[: int(np.searchsorted(np.cumsum(bits[order]), share)) + 1]
        parts.append((tensor[taken], position[taken], bits[taken]))
        left -= float(bits[taken].sum())
        helped = Ones(names, *parts[-1])
        done = helped.without(done, len(taken))
        if left <= 0 or not len(taken):
            break
    return Ones(names, *(np.concatenate([p[i] for p in parts]) for i in range(3)))


def _priced(
    tensor: QTensor, w: np.ndarray, sensitivity: Sensitivity
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions, added KL, saved bits) of every +-1 code of a tensor whose zeroing saves anything."""
    codes = tensor.codes
    position = np.flatnonzero(np.abs(codes) == 1)
    bits = np.zeros(len(position))
    counts = {s: max(int(np.sum(codes == s)), 1) for s in (-1, 0, 1)}
    signs = codes.reshape(-1)[position]
    for s in (-1, 1):
        # A zero is only cheaper than a one where zeros are more frequent.
        bits[signs == s] = np.log2(counts[0] / counts[s])
    worth = bits > 0
    position, bits, signs = position[worth], bits[worth], signs[worth]
    if not len(position):
        return position, np.zeros(0), bits
    rows, cols = np.divmod(position, codes.shape[1])
    value = signs * _steps(tensor)[rows, cols]
    error = tensor.dequantize().astype(np.float64) - w
    gradient, curvature = _derivatives(error, sensitivity)
    cost = -value * gradient[rows, cols]
    cost += 0.5 * np.square(value) * curvature[0][rows] * curvature[1][cols]
    return position, cost, bits


def _steps(tensor: QTensor) -> np.ndarray:
    """(rows, cols) float64."""
    shape = tensor.codes.shape
    step = spread_rows(tensor.steps.row.astype(np.float64), tensor.steps.group, shape[1])
    return np.broadcast_to(step if tensor.steps.col is None else step * tensor.steps.col, shape)


def _derivatives(
    error: np.ndarray, sensitivity: Sensitivity
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Gradient of the KL (rows, cols), and (rows,) and (cols,) with its second derivatives as products."""
    s = sensitivity
    eh = error if s.hessian is None else error @ s.hessian
    diagonal = np.ones(error.shape[1]) if s.hessian is None else np.diag(s.hessian)
    if s.row_cov is not None:
        return s.row_cov @ eh, (np.diag(s.row_cov).astype(np.float64), diagonal.astype(np.float64))
    return s.row_weight[:, None] * eh, (s.row_weight, diagonal.astype(np.float64))
