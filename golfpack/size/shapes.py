"""Shapes of a ladder: a depth and a width, and the model's options that follow from them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.train.run import training_of

# The bits per weight that the budget gives to the rungs of a ladder that nobody described.
LADDER_BITS = (6.0, 4.0, 3.0, 2.0, 1.25)
# Where the best rung is an end, the next has so many times its parameters, within these bits per weight.
_NEXT, _LEAST_BITS, _MOST_BITS = 1.5, 0.4, 16.0
# Sizes of one depth that are tried around the best one, where that depth is not the usual one.
_NEAR = 1.25
# What a shape says; everything else of a model is `--set model.NAME=VALUE`.
_OPTIONS = frozenset({"num_layers", "dim", "num_heads", "num_kv_heads", "mlp_hidden"})
# Channels of a head, about; 64 from a width of 512 on, as in the challenge's baseline.
_HEAD_DIM, _WIDE_HEAD_DIM, _WIDE = 32, 64, 512
_LEAST_HEADS, _LEAST_LAYERS = 4, 2
_NARROWEST, _WIDEST = 32, 8192
_WORDS = re.compile(r"([0-9]{1,3})x([0-9]{1,5})")


@dataclass(frozen=True, order=True)
class Shape:
    """Blocks and their width.

    Attributes:
        dim: channels of the residual stream.
        layers: blocks.
    """

    dim: int
    layers: int

    @property
    def name(self) -> str:
        """As it is typed: 6x256."""
        return f"{self.layers}x{self.dim}"


def read_shape(text: str) -> Shape:
    """The shape that "6x256" names. Raises UsageError for what is none."""
    match = _WORDS.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"{text!r} is no shape", "layers x width: 6x256, for instance")
    return Shape(int(match[2]), int(match[1]))


def options_of(family: Family, shape: Shape) -> dict[str, Any]:
    """The options of a model of this shape, in the proportions of the family's own.

    Raises:
        UsageError: the width does not divide into heads, or the family has other measures.
    """
    own = training_of(family).shape
    if not own or own.keys() - _OPTIONS:
        raise UsageError(
            f"a layers x width shape does not say all of a {family.name} model",
            "use a family whose models have one width: golf, llama, gpt2 or alph",
        )
    sharing = own["num_heads"] // own.get("num_kv_heads", own["num_heads"])
    heads = _heads(shape.dim, sharing)
    found = {
        "num_layers": shape.layers, "dim": shape.dim, "num_heads": heads,
        "mlp_hidden": own["mlp_hidden"] * shape.dim // own["dim"],
    }  # fmt: skip
    return found | ({"num_kv_heads": heads // sharing} if "num_kv_heads" in own else {})


def _heads(dim: int, sharing: int) -> int:
    """How many heads a width has: even ones in size and, where they share KV heads, in number."""
    wanted = _HEAD_DIM if dim < _WIDE else _WIDE_HEAD_DIM
    known = [h for h in range(_LEAST_HEADS, dim, sharing) if dim % (2 * h) == 0]
    if dim % 16 or not known:
        raise UsageError(f"a width of {dim} does not divide into heads", "use a multiple of 16")
    return min(known, key=lambda h: abs(log(dim / h / wanted)))


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
        dim += 16 if dim < _WIDE else 64


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


def refuse_measures(settings: Mapping[str, Any]) -> None:
    """Raise UsageError where `--set model.` says what shapes say."""
    if told := sorted(settings.keys() & _OPTIONS):
        raise UsageError(
            f"--set model.{told[0]} is what the shapes say", "leave it out, or give --shapes"
        )
