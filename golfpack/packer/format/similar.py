# pyright: standard
# (numba finds the types of compiled loops when they run; strict would ask for them in the source.)
"""Rows of a matrix in an order where each resembles the one before: byte codecs find more to match.

Imported on use, because numba takes most of a second to load and a decoder can do without it.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def similarity_order(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Greedy nearest-neighbour order of a matrix's rows by L1 distance, from row 0 on.

    As the record of 2026-04-27 sorts its matrices. Of equally near rows the first is next. Exact for
    codes up to 2^30 / cols, beyond which they are clipped.

    Args:
        codes: (rows, cols).

    Returns:
        order: (rows,), the row that stands at each place.
    """
    limit = ((1 << 30) - 1) // max(codes.shape[1], 1)  # distances then fit int32, which is quick
    codes = np.clip(codes, -limit, limit)
    narrowest = np.min_scalar_type(-1 - int(np.abs(codes).max(initial=0)))
    return _greedy(np.ascontiguousarray(codes, narrowest))


# No look at whether a row can still be the nearest: the plain sum runs in vectors, 20 times faster.
@njit(cache=True, nogil=True)
def _greedy(codes):
    rows, cols = codes.shape
    order = np.zeros(rows, np.int64)
    left = np.ones(rows, np.bool_)
    left[:1] = False
    for place in range(1, rows):
        last, nearest, best = codes[order[place - 1]], -1, np.int32(0)
        for r in range(rows):
            if not left[r]:
                continue
            row, distance = codes[r], np.int32(0)
            for j in range(cols):
                distance = np.int32(distance + np.int32(abs(np.int32(last[j] - row[j]))))
            if nearest < 0 or distance < best:
                nearest, best = r, distance
        order[place], left[nearest] = nearest, False
    return order
