# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
# (numba has no types)
"""The nearest points that codes with states can stand for, each row's best path, without feedback.

A path's squared error is a sum over its columns, so Viterbi's algorithm (IEEE Trans. Inf. Theory 13,
1967; for trellis-coded quantization Marcellin and Fischer, IEEE Trans. Comm. 38, 1990) finds the best of
all in one pass. Builds search with feedback and a price on bits (`listsearch`); this is for training
(`train.late`), where weights move on at every step.
"""

import numba
import numpy as np

from golfpack.packer.format.trellis import NEXT, STATES

_FAR = np.float32(3e38)


@numba.njit(cache=True, nogil=True)
def nearest_points(x: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """The nearest sequence of points of every row, (rows, cols) float32 in steps.

    Args:
        x: (rows, cols) float32 weights in steps, columns in the order of the paths; |x| < 2^22.
        fine: (rows, cols) bool, whose codes are fine (`format.trellis`).
    """
    rows, cols = x.shape
    out = np.empty((rows, cols), np.float32)
    came = np.empty((cols, STATES), np.uint8)
    point = np.empty((cols, STATES), np.float32)
    costs = np.empty((2, STATES), np.float32)
    for r in range(rows):
        now = 0
        costs[0] = _FAR
        costs[0, 0] = 0.0
        for i in range(cols):
            then = costs[1 - now]
            then[:] = _FAR
            for second in range(2):
                for parity in range(2):
                    p = _nearest(x[r, i], second, parity, fine[r, i])
                    error = (x[r, i] - p) ** 2
                    for state in range(second, STATES, 2):
                        cost, into = costs[now, state] + error, NEXT[state, parity]
                        if cost < then[into]:
                            then[into], came[i, into], point[i, into] = cost, state, p
            now = 1 - now
        at = np.argmin(costs[now])
        for i in range(cols - 1, -1, -1):
            out[r, i] = point[i, at]
            at = came[i, at]
    return out


@numba.njit(cache=True, nogil=True, inline="always")
def _nearest(x: np.float32, second: int, parity: int, fine: bool) -> np.float32:
    """The nearest point of one of the quantizers whose code moves the state by `parity`."""
    two = np.float32(2.0)
    first = np.float32(parity)
    if second == 0:
        return first + two * np.rint((x - first) / two)
    # Odd codes of Q1 stand for halves from 1/2 on, even ones from 3/2 on, or for zero.
    first = np.float32(1.5) - first
    if fine:
        return first + two * np.rint((x - first) / two)
    size = abs(x)
    if parity == 0 and size < np.float32(0.75):
        return np.float32(0.0)
    away = first + two * max(np.rint((size - first) / two), np.float32(0.0))
    return away if x >= 0 else -away
