# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (scipy has no types, torch.linalg few)
"""A build's heavy arithmetic on a torch device, matrices of one shape in one batch.

Everything is float64, as on the host: an H100 or A100 does it at half the rate of float32, and codes
then are the host's but where a target lies halfway between two codes. The device is waited for once a
batch, when its results are fetched.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.linalg import LinAlgError

from golfpack.kernels.gptq import round_feedback_batch
from golfpack.packer.engine import HostEngine, ToFactor, ToRound
from golfpack.packer.quantize.gptq import Factor, precisions, raised_damp

# Matrices of one shape are taken together up to this many float64 values of factors, 1 GiB: a batch
# needs a few times as much.
BATCH_VALUES = 1 << 27

W = TypeVar("W")


class TorchEngine:
    """See `packer.engine.Engine`.

    A list search (`ToRound.survivors`) is made on the host: it has no form for a device yet.

    Attributes:
        device: where to compute.
        kernel: Triton's kernel or its plain twin; None: the kernel where it can run.
    """

    def __init__(self, device: torch.device, kernel: bool | None = None) -> None:
        self.device, self.kernel = device, kernel

    def factors(self, work: Sequence[ToFactor], threads: int) -> Iterator[Factor]:
        """See `Engine`."""
        del threads
        found: dict[int, Factor] = {}
        batches = _batches(work, lambda t: t.matrix.shape, lambda t: t.matrix.size)
        for batch in batches:
            found.update(zip(batch, self._factor([work[i] for i in batch]), strict=True))
        return (found[i] for i in range(len(work)))

    def _factor(self, work: Sequence[ToFactor]) -> list[Factor]:
        """Factors of matrices of one size.

        M^-1 = U^T U with U upper is one Cholesky and one triangular inverse away: with J reversing rows
        and columns and J M J = L L^T, R = J L J is upper, M = R R^T, and U = R^-1.
        """
        orders = [_order(t) for t in work]
        m = self._stack(
            [t.matrix if t.order is None else t.matrix[np.ix_(o, o)]
             for t, o in zip(work, orders, strict=True)]
        )  # fmt: skip
        eye = torch.eye(m.shape[-1], dtype=m.dtype, device=self.device)
        mean = m.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        m = torch.where(mean > 0, m, eye)
        mean = torch.where(mean > 0, mean, 1.0)
        own = torch.tensor([t.own_damp for t in work], dtype=m.dtype, device=self.device)
        m = m + m * own[:, None, None] * eye
        damps = [t.damp for t in work]
        while True:
            damp = torch.tensor(damps, dtype=m.dtype, device=self.device)[:, None, None]
            lower, info = torch.linalg.cholesky_ex((m + damp * mean * eye).flip(1, 2))
            failed = (info != 0).tolist()
            if not any(failed):
                break
            if any(f and raised_damp(d) is None for f, d in zip(failed, damps, strict=True)):
                raise LinAlgError("a matrix is not positive semi-definite by far")
            damps = [(raised_damp(d) or d) if f else d for f, d in zip(failed, damps, strict=True)]
        upper = torch.linalg.solve_triangular(lower.flip(1, 2), eye, upper=True)
        fetched = upper.float().cpu().numpy()
        return [Factor(u, o, d) for u, o, d in zip(fetched, orders, damps, strict=True)]

    def codes(self, work: Sequence[ToRound], threads: int) -> Iterator[np.ndarray]:
        """See `Engine`. Matrices without a factor are rounded to nearest on the host: it is no work."""
        here = [
            i
            for i, t in enumerate(work)
            if t.factor is not None and t.w.size and t.survivors == 1 and not t.trellis
        ]
        found: dict[int, np.ndarray] = {}
        for batch in _batches([work[i] for i in here], _kind, _values):
            members = [here[i] for i in batch]
            found.update(zip(members, self._round([work[i] for i in members]), strict=True))
        rest = [i for i in range(len(work)) if i not in found]
        found.update(zip(rest, HostEngine().codes([work[i] for i in rest], threads), strict=True))
        return (found[i] for i in range(len(work)))

    def _round(self, work: Sequence[ToRound]) -> list[np.ndarray]:
        """Codes of matrices that `_kind` calls alike."""
        first, rows, cols = work[0], *work[0].w.shape
        factors = [t.factor for t in work if t.factor is not None]
        orders = [f.order for f in factors]
        col_steps = [np.ones(cols) if t.steps.col is None else t.steps.col for t in work]
        row_rate = col_rate = group_of = None
        row_orders = [np.arange(rows) if t.row_factor is None else t.row_factor.order for t in work]
        if first.rate_weight > 0:
            rates = [precisions(t.w, t.steps) for t in work]
            row_rate = self._stack([r[o] for (r, _), o in zip(rates, row_orders, strict=True)])
            col_rate = self._stack([c[o] for (_, c), o in zip(rates, orders, strict=True)])
        if first.steps.group is not None:
            group_of = torch.from_numpy(orders[0] // first.steps.group).to(self.device)
        row_factors = [t.row_factor for t in work if t.row_factor is not None]
        codes = round_feedback_batch(
            self._stack([t.w[np.ix_(r, o)] for t, r, o in zip(work, row_orders, orders, strict=True)]),
            self._stack([t.steps.row[r] for t, r in zip(work, row_orders, strict=True)]),
            self._stack([c[o] for c, o in zip(col_steps, orders, strict=True)]),
            self._stack([f.upper for f in factors]),
            first.limit,
            self._stack([f.upper for f in row_factors]) if row_factors else None,
            first.rate_weight, row_rate, col_rate, group_of=group_of, kernel=self.kernel,
        )  # fmt: skip
        assert codes.shape == (len(work), rows, cols)
        fetched = codes.cpu().numpy()
        return [_unordered(*each) for each in zip(fetched, row_orders, orders, strict=True)]

    def _stack(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Arrays of one shape as one float64 tensor on the device."""
        sent = torch.from_numpy(np.stack(arrays)).to(self.device)
        return sent.to(torch.float64)


def _order(t: ToFactor) -> np.ndarray:
    return np.arange(len(t.matrix)) if t.order is None else t.order


def _kind(t: ToRound) -> Hashable:
    """What matrices in one batch have in common."""
    group = t.steps.group
    # Columns in groups of shared steps are permuted alike, or not at all.
    order = t.factor.order.tobytes() if group is not None and t.factor is not None else None
    return t.w.shape, t.row_factor is None, t.limit, t.rate_weight, group, order


def _values(t: ToRound) -> int:
    rows, cols = t.w.shape
    return rows * cols + cols * cols + (rows * rows if t.row_factor is not None else 0)


def _unordered(codes: np.ndarray, row_order: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Codes in rounding order -> codes in the tensor's own."""
    out = np.empty_like(codes)
    out[np.ix_(row_order, order)] = codes
    return out


def _batches(
    work: Sequence[W], kind: Callable[[W], Hashable], values: Callable[[W], int]
) -> Iterator[list[int]]:
    """Indices of work of one kind, in batches of at most BATCH_VALUES values (or of one)."""
    groups: dict[Hashable, list[int]] = {}
    for i, t in enumerate(work):
        groups.setdefault(kind(t), []).append(i)
    for group in groups.values():
        size = max(1, BATCH_VALUES // max(values(work[group[0]]), 1))
        for start in range(0, len(group), size):
            yield group[start : start + size]
