"""Codes with states: two quantizers, and which of them a code belongs to follows from the codes before.

Dependent quantization (trellis-coded quantization: Marcellin and Fischer, IEEE Trans. Comm. 38, 1990;
as JPEG 2000 part 2 and VVC have it). A quantizer of half the step has twice the points; every weight may
take half of them, those of Q0 or those of Q1, as a state tells. In steps,

    Q0: k           Q1: k - sign(k) / 2

The quantizer of a code is the low bit of the state, and the parity of the code moves the state:
Ungerboeck's code of 8 states in systematic feedback form, parity checks (octal) 13 and 4. A path goes
along each row, from state 0 at the first column of `path_order`.

What Q1 has at zero depends on how coarse the step is for the weights. Where most codes are zero, Q1
holds zero too, so that nothing has to be sent to stay there. From a level of the coder on codes are
*fine*: Q1 has no zero, and the parity of its negative codes is the other one, so that the points of both
quantizers run through the four subsets in one turn from end to end, as the trellis wants it; with a zero
in between it turns back there, which costs 0.02 to 0.05 bit (docs/LOG.md). So what a code of Q1 stands
for, and which path it takes, depends on the coder's levels, which are fixed before a code is chosen.
"""

import numpy as np

STATES = 8
# Codes are fine from this level of the coder on: a standard deviation of 0.42 steps, about a bit each.
FINE = 14


def following(state: int, parity: int) -> int:
    """The state behind a code of that parity."""
    return (state >> 1 ^ state) & 1 | (state >> 2 ^ parity) << 1 | (state & 1) << 2


# (STATES, 2) uint8.
NEXT = np.array([[following(s, p) for p in (0, 1)] for s in range(STATES)], np.uint8)


def path_order(col_log: np.ndarray) -> np.ndarray:
    """The columns in the order in which a path meets them: the largest column steps first.

    What is rounded first can be made up for by most others, so it had better have the largest steps; and
    of all orders with that, this is one that a decoder knows (docs/LOG.md).
    """
    return np.argsort(-col_log.astype(np.int64), kind="stable")


def quantizers(codes: np.ndarray, order: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Which quantizer each of the codes (rows, cols) belongs to, uint8 of the same shape.

    Args:
        codes: int32.
        order: of the columns on a path, (cols,).
        fine: (rows, cols) bool, see above.
    """
    ordered = codes[:, order]
    parity = np.ascontiguousarray((ordered & 1).T.astype(np.uint8))
    turned = np.ascontiguousarray(((ordered < 0) & fine[:, order]).T.astype(np.uint8))
    found, state = np.empty_like(parity), np.zeros(len(codes), np.uint8)
    for i, of_column in enumerate(parity):
        found[i] = state & 1
        state = NEXT[state, of_column ^ (turned[i] & found[i])]
    out = np.empty(codes.shape, np.uint8)
    out[:, order] = found.T
    return out


def points(codes: np.ndarray, order: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """What codes (rows, cols) stand for, in steps: float32, whole and half numbers."""
    values = codes.astype(np.float32)
    values -= np.sign(values) * (quantizers(codes, order, fine) * np.float32(0.5))
    return values
