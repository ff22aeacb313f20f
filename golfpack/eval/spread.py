"""How much of a figure is the text's doing: standard errors over stretches of a stream."""

import math

import numpy as np

from golfpack.eval.report import Spread

# Stretches of a stream, at most and at least, and the targets that each has to have. Errors over fewer
# say little; of shorter ones neighbours depend on one another.
MOST, LEAST, TARGETS = 32, 8, 64


def spread(float_nll: np.ndarray, nll: np.ndarray, target_bytes: np.ndarray) -> Spread | None:
    """Of the float model's bits per byte, and of the quant gap; None for a stream too short to tell.

    Both models are scored on the same stretches: what a hard text does to both is not in the gap's.

    Args:
        float_nll, nll: (targets,) nats of the float model and of the other one.
        target_bytes: (targets,) bytes that each stands for.
    """
    count = min(MOST, len(nll) // TARGETS)
    if count < LEAST:
        return None
    size = _sums(target_bytes.astype(np.float64), count)
    before, after = (_sums(x / math.log(2), count) for x in (float_nll, nll))
    return Spread(count, _standard_error(before, size), _standard_error(after - before, size))


def _sums(values: np.ndarray, count: int) -> np.ndarray:
    """(count,) float64 sums over consecutive parts of like length."""
    starts = np.arange(count) * len(values) // count
    return np.add.reduceat(values.astype(np.float64), starts)


def _standard_error(bits: np.ndarray, size: np.ndarray) -> float:
    """Of sum(bits) / sum(size), a ratio of totals over stretches (Cochran, Sampling Techniques, 6.4)."""
    rest = bits - size * (bits.sum() / size.sum())
    n = len(bits)
    return float(np.sqrt(n / (n - 1) * np.square(rest).sum()) / size.sum())
