"""Shapes that a ladder has, and those that are tried beside its best one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import log, log2

from golfpack.errors import UsageError
from golfpack.train.shapes import Shape

# The bits per weight that the budget gives to the rungs of a ladder that nobody described.
LADDER_BITS = (6.0, 4.0, 3.0, 2.0, 1.25)
# Where the best rung is an end, the next has so many times its parameters, within these bits per weight.
_NEXT, _LEAST_BITS, _MOST_BITS = 1.5, 0.4, 16.0
# Sizes of one depth that are tried around the best one, where that depth is not the usual one.
_NEAR = 1.25
_LEAST_LAYERS = 2
_NARROWEST, _WIDEST = 32, 8192
# Widths are so many channels apart, and from one on four times as many.
_STEP, _WIDE = 16, 512
# Tables of token pairs: their fewest rows, and the narrowest.
_FEWEST_ROWS, _NARROWEST_ROW = 1024, 16


def depth_of(dim: int) -> int:
    """Layers of a width, where nobody says: with its square root, and 6 at 256 as the demonstrations."""
    return max(_LEAST_LAYERS, round(6 * (dim / 256) ** 0.5))


def ladder(size_of: Callable[[Shape], int], budget: int) -> tuple[Shape, ...]:
    """Shapes that the budget gives 6 to 1.25 bits per weight, smallest first.

    Args:
        size_of: shape -> parameters.
        budget: bytes for the artifact.

    Raises:
        UsageError: the vocabulary alone, at the smallest width, is too much for the budget.
    """
    known = [(size_of(s), s) for s in _grid(_NARROWEST, _WIDEST, 8 * budget, size_of)]
    if not known:
        raise UsageError(
            f"no model with this vocabulary has a bit per weight in {budget:,} bytes",
            "use a smaller vocabulary, a larger budget, or name --shapes",
        )
    near = {
        min(known, key=lambda k: abs(log(k[0] * bits / (8 * budget))))[1] for bits in LADDER_BITS
    }
    return tuple(sorted(near))


def beyond(
    size_of: Callable[[Shape], int], shapes: Sequence[Shape], best: str, budget: int
) -> Shape | None:
    """The next rung where the best one is an end of its ladder; None where it is not, or none is left.

    Args:
        shapes: smallest first.
        best: name of one of them.
        budget: bytes for the artifact.
    """
    ends = {shapes[0].name: 1 / _NEXT, shapes[-1].name: _NEXT}
    if best not in ends:
        return None
    low, high = size_of(shapes[0]), size_of(shapes[-1])
    wanted = (low if best == shapes[0].name else high) * ends[best]
    most = round(8 * budget / _LEAST_BITS)
    known = [(size_of(s), s) for s in _grid(_NARROWEST, _WIDEST, most, size_of)]
    further = [k for k in known if (k[0] > high if wanted > high else k[0] < low)]
    fitting = [k for k in further if 8 * budget / k[0] <= _MOST_BITS]
    return min(fitting, key=lambda k: abs(log(k[0] / wanted)))[1] if fitting else None


def neighbours(size_of: Callable[[Shape], int], best: Shape, budget: int) -> list[Shape]:
    """Shapes of about the best one's size with a block less and one more.

    Where its depth is not the usual one, shapes of the same depth that are smaller and larger, too.
    """
    own = size_of(best)
    depths = [n for n in (best.layers - 1, best.layers + 1) if n >= _LEAST_LAYERS]
    wanted = [(layers, own) for layers in depths]
    if best.layers != depth_of(best.dim):
        wanted += [(best.layers, round(own / _NEAR)), (best.layers, round(own * _NEAR))]
    found = [_nearest(size_of, layers, size) for layers, size in wanted]
    bits = {s: 8 * budget / size_of(s) for s in found}
    return [s for s in bits if s != best and _LEAST_BITS <= bits[s] <= _MOST_BITS]


def tables(
    size_of: Callable[[Shape], int], tried: Sequence[Shape], best: Shape, budget: int
) -> list[Shape]:
    """Tables of token pairs to try beside the best shape: what spare bytes can buy at next to no time.

    Where it has none, one with about as many weights as all the rest, or as many as there are bits for,
    about a quarter as wide as the model: many narrow rows are worth more than few wide ones
    (docs/LOG.md). Where it has one, the same with triples (unless they have been tried with as many
    rows), with twice the rows, and twice as wide; where these are known, half of either. A table that
    was tried beside other blocks is known.

    Args:
        tried: every shape so far.
        budget: bytes for the artifact.
    """
    known = {s.table for s in tried}
    if not best.rows:
        width = max(2 ** round(log2(best.dim / 4)), _NARROWEST_ROW)
        rows = max(2 ** round(log2(size_of(best) / width)), _FEWEST_ROWS)
        first = replace(best, rows=rows, width=width)
        while first.rows > _FEWEST_ROWS and not _may_have(first, size_of(first), budget):
            first = replace(first, rows=first.rows // 2)
        steps = [[first]]
    else:
        more = [replace(best, rows=2 * best.rows)]
        # Triples collide the more, the fewer rows there are: lost with as many, they are with fewer.
        if not any(s.triples and s.rows >= best.rows for s in tried):
            more.insert(0, replace(best, triples=True))
        steps = [
            [*more, replace(best, width=2 * best.width)],
            [replace(best, rows=best.rows // 2), replace(best, width=best.width // 2)],
        ]
    for shapes in steps:
        new = [s for s in shapes if s.table not in known and _may_have(s, size_of(s), budget)]
        if new:
            return new
    return []


def blocks(
    size_of: Callable[[Shape], int], tried: Sequence[Shape], best: Shape, budget: int
) -> list[Shape]:
    """Other blocks to try with the table of the best shape, which does much of what they did without.

    A block less, and blocks three quarters as wide, which leave time for more steps; where these are
    known, one more that is wider by a quarter.

    Args:
        tried: every shape so far.
        budget: bytes for the artifact.
    """
    narrower, wider = (round(share * best.dim / _STEP) * _STEP for share in (0.75, 1.25))
    steps = [
        [replace(best, layers=best.layers - 1), replace(best, dim=narrower)],
        [replace(best, layers=best.layers + 1, dim=wider)],
    ]
    for shapes in steps:
        new = [s for s in shapes if s not in tried and _may_have(s, size_of(s), budget)]
        if new:
            return new
    return []


def _may_have(shape: Shape, size: int, budget: int) -> bool:
    wide = _NARROWEST_ROW <= shape.width <= shape.dim
    large = shape.layers >= _LEAST_LAYERS and shape.dim >= _NARROWEST
    return wide and large and shape.rows >= _FEWEST_ROWS and 8 * budget / size >= _LEAST_BITS


def _nearest(size_of: Callable[[Shape], int], layers: int, size: int) -> Shape:
    """The width of a depth whose size comes nearest."""
    below = Shape(_NARROWEST, layers)
    for dim in _widths(_NARROWEST, _WIDEST):
        shape = Shape(dim, layers)
        if size_of(shape) >= size:
            return min(below, shape, key=lambda s: abs(log(size_of(s) / size)))
        below = shape
    return below


def _widths(low: int, high: int) -> Iterator[int]:
    dim = low
    while dim <= high:
        yield dim
        dim += _STEP if dim < _WIDE else 4 * _STEP


def between(size_of: Callable[[Shape], int], shapes: Sequence[Shape]) -> dict[Shape, int]:
    """Shapes of the usual depths within a ladder's range of parameters, by their parameters."""
    sizes = [size_of(s) for s in shapes]
    dims = [s.dim for s in shapes]
    found = {
        s: size_of(s)
        for s in _grid(min(dims), max(dims), max(sizes), size_of)
        if size_of(s) >= min(sizes)
    }
    return found | dict(zip(shapes, sizes, strict=True))


def _grid(low: int, high: int, most: int, size_of: Callable[[Shape], int]) -> Sequence[Shape]:
    """Shapes of widths from `low` to `high` with their usual depths, up to `most` parameters."""
    found = []
    for dim in _widths(low, high):
        shape = Shape(dim, depth_of(dim))
        if size_of(shape) > most:
            break
        found.append(shape)
    return found
