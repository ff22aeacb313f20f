"""AWQ: column factors that follow how large each input is (Lin et al., arXiv 2306.00978, section 3.2).

A matrix whose column j is multiplied by s_j before it is rounded, and divided by s_j afterwards, has
s_j times smaller errors in that column as long as the row's step stays what it was. AWQ takes
s_j = (mean |x_j|)^alpha, x the inputs calibration saw, and keeps the alpha with the least error in the
layer's output. Factors are integers, log2 in 1/16 octave, as column steps are stored.

Where the graph allows (`ir.Fold`), columns are undone in the rows of the matrix that makes their
inputs, and need not be stored at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from golfpack.packer.format.steps import COL_OCTAVE, col_logs, exp2_log
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.gptq import round_nearest
from golfpack.packer.quantize.schemes import IntN, Ternary
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.spec import Fold, Use

# An input that calibration hardly ever saw counts as this share of the mean input.
SMALLEST_INPUT = 1e-4


@dataclass(frozen=True, eq=False)
class Factors:
    """What the search found for one matrix.

    Attributes:
        logs: (cols,) int32, log2 of the factors in 1/16 octave; all 0 where none help.
        alpha: the exponent behind them.
        error_ratio: expected KL of rounding to nearest with the factors, over that without.
    """

    logs: np.ndarray
    alpha: float
    error_ratio: float


def input_sizes(input_abs: np.ndarray, tied: Sequence[int] | None = None) -> np.ndarray:
    """(cols,) float64 > 0: mean |x_j|, floored.

    Args:
        input_abs: (cols,) mean |x_j| as calibrated; all zero counts as all equal.
        tied: per column the producer's row that feeds it: columns of one row get their geometric mean.
    """
    if not input_abs.any():
        return np.ones(len(input_abs))
    sizes = np.maximum(input_abs, SMALLEST_INPUT * input_abs.mean())
    if tied is None:
        return sizes
    of = np.asarray(tied, np.int64)
    totals, counts = np.bincount(of, np.log(sizes)), np.bincount(of)
    return np.exp(totals[of] / counts[of])


def find_factors(
    w: np.ndarray, scheme: IntN | Ternary, sensitivity: Sensitivity, sizes: np.ndarray, grid: int
) -> Factors:
    """The best of the factors sizes^alpha, alpha = 0, 1/grid, ..., 1, by `trial_error`.

    Args:
        w: weights (rows, cols) float32.
        sensitivity: of `w`; a clip rule may ask for its Hessian.
        sizes: (cols,) > 0, see `input_sizes`.
    """
    log = np.log(sizes)
    log -= log.mean()  # a geometric mean of 1 leaves the rows' steps about where they were
    plain = trial_error(w, scheme, sensitivity, np.zeros(len(sizes), np.int32))
    best, least = Factors(np.zeros(len(sizes), np.int32), 0.0, 1.0), plain
    for i in range(1, grid + 1):
        logs = col_logs(np.exp(i / grid * log))
        error = trial_error(w, scheme, sensitivity, logs)
        if error < least:
            best, least = Factors(logs, i / grid, error / plain), error
    return best


def trial_error(
    w: np.ndarray, scheme: IntN | Ternary, sensitivity: Sensitivity, logs: np.ndarray
) -> float:
    """Expected KL, nats per token, of rounding `w` (rows, cols) to nearest.

    Columns are multiplied by 2^(logs / 16) before; clips are the scheme's own, at dial 1.
    """
    factors = exp2_log(logs, COL_OCTAVE)
    scaled, known = w * factors, sensitivity.scaled(factors)
    steps = scheme.steps(scaled, known, 1.0, scheme.find_clips(scaled, known))
    codes = round_nearest(scaled, steps, scheme.limit)
    return known.kl(QTensor(codes, steps).dequantize() - scaled)


def fold_weights(
    weights: Mapping[str, np.ndarray], fold: Fold, logs: np.ndarray
) -> dict[str, np.ndarray]:
    """Consumer and producer of `fold` with column factors 2^(logs / 16) folded in, both float32.

    `logs` (cols,) must be equal for all columns that one producer row feeds.
    """
    consumer, producer = weights[fold.consumer], weights[fold.producer]
    col, row = _both_sides(fold, logs, len(producer))
    return {
        fold.consumer: (consumer * col).astype(np.float32),
        fold.producer: (producer * row[:, None]).astype(np.float32),
    }


def fold_uses(
    uses: Mapping[str, tuple[Use, ...]], fold: Fold, logs: np.ndarray, rows: int
) -> dict[str, tuple[Use, ...]]:
    """What calibration would have measured of consumer and producer after `fold_weights`.

    The consumer's inputs are divided by its factors s, so its Hessian by s_i s_j. The producer's
    outputs are multiplied by its factors t, so their gradients are divided by t_r: row weights fall by
    t_r^2. An error scaled like its weight then has the expected KL it had. The producer's Hessian stays
    as it was, though tokens count in it by the size of these gradients (`calib.stats`).

    Args:
        rows: of the producer.
    """
    col, row = _both_sides(fold, logs, rows)
    change: dict[str, Callable[[Use], Use]] = {
        fold.consumer: lambda use: _divided_inputs(use, col),
        fold.producer: lambda use: _multiplied_outputs(use, row),
    }
    return {n: tuple(map(change[n], uses[n])) for n in change if n in uses}


def _both_sides(fold: Fold, logs: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the consumer's columns (cols,) and of the producer's rows (rows,), float64."""
    col = exp2_log(logs, COL_OCTAVE).astype(np.float64)
    row = np.ones(rows)
    row[list(fold.rows)] = col ** (-1 / fold.power)
    return col, row


def _divided_inputs(use: Use, s: np.ndarray) -> Use:
    return replace(
        use,
        hessian=(use.hessian / np.outer(s, s)).astype(np.float32),
        input_abs=None if use.input_abs is None else use.input_abs / s,
    )


def _multiplied_outputs(use: Use, t: np.ndarray) -> Use:
    cov = use.output_cov
    return replace(
        use,
        row_weight=None if use.row_weight is None else use.row_weight / t**2,
        output_cov=None if cov is None else (cov / np.outer(t, t)).astype(np.float32),
    )
