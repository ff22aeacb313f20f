"""Which coding makes each code stream smallest, by trying them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from golfpack.base.parallel import map_ordered
from golfpack.packer.format.codecs import CODECS, Store
from golfpack.packer.format.codestreams import (
    ORDER_TYPE,
    ByteStream,
    CodeGroup,
    CodeStream,
    RansCodes,
    encode_group,
    sortable,
)
from golfpack.packer.format.filters import Filter, Shuffle
from golfpack.packer.format.tensors import QTensor

_FILTERS: tuple[tuple[Filter, ...], ...] = ((), (Shuffle(2),))


@dataclass(frozen=True)
class Coding:
    """How all codes of an artifact are coded.

    Attributes:
        groups: one a code stream, which together hold every quantized tensor.
        side: how steps, kept floats and orders of rows are coded.
        complete: whether every combination was tried, where they are tried at all. If not, the choice
            depended on the machine's speed.
    """

    groups: tuple[CodeGroup, ...]
    side: ByteStream
    complete: bool = True

    def covers(self, names: Iterable[str]) -> bool:
        """Whether it was chosen for just these tensors."""
        return {n for group in self.groups for n in group.names} == set(names)


def candidates() -> Iterator[tuple[CodeStream, bool]]:
    """Codings to try, as (stream, whether rows are sorted): what most often wins comes first."""
    yield RansCodes(), False
    for filters in _FILTERS:
        for sort in (False, True):
            for codec in (make() for make in CODECS.values() if make is not Store):
                yield ByteStream(codec, filters, "col"), sort
                yield ByteStream(codec, filters, "row"), sort


def choose_coding(
    groups: Sequence[tuple[str, ...]],
    tensors: Mapping[str, QTensor],
    side: ByteStream,
    time_limit: float,
    threads: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> Coding:
    """The smallest coding of each group of tensors, orders of sorted rows included.

    Each candidate is tried on all groups before the next, and at least one is tried.

    Args:
        groups: the tensors that share a stream.
        side: what orders of rows are coded with.
        time_limit: seconds after which no further candidate is tried.
    """
    until = time.monotonic() + time_limit
    tries, unsorted = list(candidates()), frozenset[str]()
    can_sort = sortable(tensors)
    best: list[tuple[int, CodeGroup]] = []
    for done, (stream, sort) in enumerate(tries):
        if done and time.monotonic() >= until:
            return Coding(tuple(group for _, group in best), side, complete=False)
        made = [CodeGroup(g, stream, can_sort & set(g) if sort else unsorted) for g in groups]
        sizes = map_ordered(lambda group: _size(group, tensors, side), made, threads)
        sized = list(zip(sizes, made, strict=True))
        best = [min(pair, key=lambda s: s[0]) for pair in zip(best or sized, sized, strict=True)]
        if progress is not None:
            progress(done + 1, len(tries), f"{sum(size for size, _ in best):,} bytes")
    return Coding(tuple(group for _, group in best), side)


def _size(group: CodeGroup, tensors: Mapping[str, QTensor], side: ByteStream) -> int:
    coded = encode_group(group, tensors)
    orders = b"".join(order.astype(ORDER_TYPE).tobytes() for order in coded.orders.values())
    return len(coded.data) + (len(side.encode(orders)) if orders else 0)
