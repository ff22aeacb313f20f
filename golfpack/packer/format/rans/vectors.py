"""Short vectors of integers that resemble each other: steps, and the classes of scale models.

A vector x is told from at most two vectors y, z of its length that are known before it:

    x = middle + ((w (y - mean y) + v (z - mean z) + 8) >> 4) + d

where the means are rounded down. Queries, keys and values have the same inputs, one layer's inputs
resemble those of the next, and a row of one matrix is a column of another. A vector with a trend,
such as a vocabulary sorted by frequency, has d = rest + the mean of the four before it; others d = rest.
The lanes carry the heads of all vectors in one run, then their rests in another. `fit_vectors` chooses
heads.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from golfpack.packer.format.rans.lanes import CODE_LIMIT, Reader, corrupt
from golfpack.packer.format.rans.payload import (
    Decoder,
    check_claim,
    default_decoder,
    parse_payload,
)
from golfpack.packer.format.rans.tables import LEVELS, tables

# A head: middle and spread, as they differ from those of the vector of its kind before it; a lag, which
# counts back among known vectors of the length, 0 for none, and a weight, as it differs from 1; a second
# lag and weight; whether there is a trend. The level that each is coded at, of steps and of classes:
STEP_HEADS = np.array([56, 40, 34, 38, 2, 2, 10], np.uint8)
CLASS_HEADS = np.array([24, 40, 20, 16, 2, 2, 8], np.uint8)
FIRST = [0, 8]  # middle and spread that the first vector of a kind differs from
SPREAD_STEP = 3  # levels: rests are coded at level SPREAD_STEP times spread
WEIGHT_BITS = 4  # fraction bits of a weight
UNIT = 1 << WEIGHT_BITS
MAX_WEIGHT = 128  # in 2^-WEIGHT_BITS, as it is told
TREND = 4  # how many entries before one tell it

Ints = NDArray[np.integer]
# Vectors that are known so far, less their means, by their lengths; the latest last.
Known = dict[int, list[NDArray[np.int64]]]
# A vector that is known, or the kind and the length of one to read.
Item = Ints | tuple[Hashable, int]


def decode_vectors(payload: bytes, plan: Sequence[Item]) -> list[NDArray[np.int32]]:
    """The step vectors of a plan from a payload of their own (`fit_vectors.encode_vectors`).

    Raises:
        CorruptError: no encoder wrote this payload for this plan.
    """
    check_claim(payload, sum(item[1] for item in plan if isinstance(item, tuple)))
    _, reader = parse_payload(payload, 0)
    found = read_vectors(reader, default_decoder(), plan, STEP_HEADS)
    reader.check_finished()
    return found


def read_vectors(
    reader: Reader, decode: Decoder, plan: Sequence[Item], head_levels: NDArray[np.uint8]
) -> list[NDArray[np.int32]]:
    """The vectors of a plan that are not known.

    Args:
        reader: is advanced.
        decode: of the lanes.
        plan: in the order of coding.
        head_levels: STEP_HEADS or CLASS_HEADS.

    Raises:
        CorruptError: no encoder wrote such heads.
    """
    wanted = [item for item in plan if isinstance(item, tuple)]
    lengths = [length for _, length in wanted]
    reader.lane = 0
    heads = decode(reader, np.tile(head_levels, len(wanted)), tables(), 0).astype(np.int64)
    heads = heads.reshape(-1, len(head_levels))
    last: dict[Hashable, Ints] = {}
    for (kind, _), head in zip(wanted, heads, strict=True):
        head[:2] += last.get(kind, np.array(FIRST))
        last[kind] = head[:2]
    levels = SPREAD_STEP * heads[:, 1]
    if levels.min(initial=0) < 0 or levels.max(initial=0) >= LEVELS:
        raise corrupt("a vector has no possible spread")
    reader.lane = 0
    rests = decode(reader, np.repeat(levels.astype(np.uint8), lengths), tables(), 0)
    pieces = zip(heads.tolist(), np.split(rests, np.cumsum(lengths)[:-1]), strict=True)
    known: Known = {}
    found: list[NDArray[np.int32]] = []
    left = Counter(x[1] if isinstance(x, tuple) else len(x) for x in plan)
    for x in plan:
        if isinstance(x, tuple):
            x = _vector(*next(pieces), known.get(x[1], []))
            found.append(x)
        left[len(x)] -= 1
        if left[len(x)]:  # vectors of a length that does not come again may be large
            learn(known, x)
    return found


def learn(known: Known, x: Ints) -> None:
    """Add a vector (n,) to those that are known."""
    x = x.astype(np.int64)
    known.setdefault(len(x), []).append(x - x.sum() // max(len(x), 1))


def foretold(
    known: Sequence[NDArray[np.int64]], lag: int, weight: int, second_lag: int, second_weight: int
) -> Ints:
    """What lags and weights (less UNIT) tell of a vector (n,), but for its middle.

    Lags are at most len(known). Without one it is a 0, of no axes.
    """
    total = np.array(UNIT >> 1)
    if lag:
        total = total + (weight + UNIT) * known[-lag]
    if second_lag:
        total = total + (second_weight + UNIT) * known[-second_lag]
    return total >> WEIGHT_BITS


def _vector(
    head: list[int], rest: NDArray[np.int32], known: Sequence[NDArray[np.int64]]
) -> NDArray[np.int32]:
    middle, _, *told, trend = head
    if (
        any(not 0 <= lag <= len(known) for lag in told[::2])
        or max(map(abs, told[1::2])) > MAX_WEIGHT
    ):
        raise corrupt("a vector is told from none that is known")
    if trend not in (0, 1):
        raise corrupt("a vector has no possible trend")
    x = middle + foretold(known, *told) + (_with_trend(rest) if trend else rest)
    if x.max(initial=0) >= CODE_LIMIT or x.min(initial=0) < -CODE_LIMIT:
        raise corrupt("a vector leaves the 32-bit range")
    return x.astype(np.int32)


def _with_trend(rest: NDArray[np.int32]) -> NDArray[np.int64]:
    """Each entry of `rest` and the rounded mean of the TREND entries before it, which begin as zeros."""
    out = np.empty(len(rest), np.int64)
    a = b = c = d = 0
    for n, r in enumerate(map(int, rest)):  # no list: a vector may be long
        a, b, c, d = b, c, d, r + (a + b + c + d + TREND // 2) // TREND
        out[n] = d
    return out
