"""Choosing the heads of vectors: the encoder's part. Only exact integers and their quotients decide.

So a file does not depend on which machine writes it.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from golfpack.packer.format.rans.payload import encode_payload
from golfpack.packer.format.rans.tables import magnitude_costs, tables
from golfpack.packer.format.rans.vectors import (
    CLASS_HEADS,
    FIRST,
    MAX_WEIGHT,
    SPREAD_STEP,
    STEP_HEADS,
    UNIT,
    Ints,
    Known,
    foretold,
    learn,
)

# A vector that the decoder knows, or the kind of one to code and the vector.
Told = Ints | tuple[Hashable, Ints]
Run = tuple[NDArray[np.int32], NDArray[np.uint8]]

_REACH = 64  # known vectors that are looked at
_SHORT = 4  # entries of a vector from which on it may be told from others


def encode_vectors(plan: Sequence[Told]) -> bytes:
    """A payload of the step vectors of a plan that are not known, for `vectors.decode_vectors`."""
    return encode_payload(vector_runs(plan, STEP_HEADS), tables())


def vector_runs(plan: Sequence[Told], head_levels: NDArray[np.uint8]) -> list[Run]:
    """The two runs that `vectors.read_vectors` reads, of the vectors to code.

    Args:
        plan: in the order of coding; vectors are (n,) and fit int32.
        head_levels: STEP_HEADS or CLASS_HEADS.
    """
    known: Known = {}
    last: dict[Hashable, list[int]] = {}
    heads, rests, levels = [_NONE], [_NONE], [_NONE]
    for item in plan:
        if isinstance(item, tuple):
            kind, x = item
            before = last.get(kind, FIRST)
            _, head, rest = _cheapest_head(
                x.astype(np.int64), known.get(len(x), []), before, head_levels
            )
            last[kind] = [before[0] + int(head[0]), before[1] + int(head[1])]
            heads.append(head)
            rests.append(rest)
            levels.append(np.full(len(x), SPREAD_STEP * last[kind][1]))
        learn(known, item[1] if isinstance(item, tuple) else item)
    return [
        (np.concatenate(heads).astype(np.int32), np.tile(head_levels, len(heads) - 1)),
        (np.concatenate(rests).astype(np.int32), np.concatenate(levels).astype(np.uint8)),
    ]


_NONE = np.zeros(0, np.int64)


def expected(x: Ints, known: Ints) -> tuple[int, NDArray[np.int64], int]:
    """How classes would be told, of which nothing else is known than steps of the same side.

    Returns:
        What they cost in COST_UNITS, the value that each would have without a rest, and the level of
        the rests.
    """
    told: Known = {}
    learn(told, known)
    x = x.astype(np.int64)
    cost, head, rest = _cheapest_head(x, told.get(len(x), []), FIRST, CLASS_HEADS)
    return cost, x - rest, SPREAD_STEP * (FIRST[1] + int(head[1]))


def _cheapest_head(
    x: NDArray[np.int64],
    known: Sequence[NDArray[np.int64]],
    last: Sequence[int],
    head_levels: NDArray[np.uint8],
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """The head and the rest that take the fewest bits, and how many, in COST_UNITS."""
    from golfpack.packer.format.rans import fast

    told = list(_tellings(x, known[-_REACH:]))
    left = np.stack([x - foretold(known, *lags) for lags in told])
    costs = magnitude_costs()
    best = fast.cheapest_head(
        left, np.array(told), np.array(last), costs[head_levels], costs[::SPREAD_STEP]
    )
    assert best[0] >= 0, "a vector itself is a rest"
    return best


def _tellings(
    x: NDArray[np.int64], known: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[int, int, int, int]]:
    """Lags and weights to try: none, the best by least squares, and that with the best second."""
    yield 0, 0, 0, 0
    if len(x) < _SHORT or not known:
        return
    past = np.stack(known[::-1])
    if max(int(np.abs(past).max()), int(np.abs(x).max())) >= 1 << 15:
        return  # nonsense steps; sums of squares would leave 64 bits
    with_x, power = _shared(past, x), _shared(past, past)
    gain = np.where(power > 0, with_x**2 / np.maximum(power, 1), 0)
    first = int(np.argmax(gain))
    if gain[first] <= 0:
        return
    weight = _weight(with_x[first] / power[first])
    if weight is not None:
        yield first + 1, weight, 0, 0
    shared = _shared(past, past[first])
    area = power[first] * power - shared**2
    apart = area > 1e-3 * power[first] * power
    area = np.where(apart, area, 1)
    ours = (with_x[first] * power - with_x * shared) / area
    theirs = (with_x * power[first] - with_x[first] * shared) / area
    second = int(np.argmax(np.where(apart, ours * with_x[first] + theirs * with_x, 0)))
    weight, other = _weight(ours[second]), _weight(theirs[second])
    if apart[second] and weight is not None and other is not None:
        yield first + 1, weight, second + 1, other


def _shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,) sums over products of the rows of `a` and of `b` (or a vector), less their means."""
    apart = a.sum(1).astype(np.float64) * b.sum(-1) / a.shape[1]
    return (a * b).sum(1).astype(np.float64) - apart


def _weight(w: float) -> int | None:
    """A weight as a head tells it; None where there is none, or it is too large."""
    told = round(w * UNIT) - UNIT
    return told if abs(told) <= MAX_WEIGHT and told != -UNIT else None
