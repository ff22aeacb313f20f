"""Reversible byte rearrangements that make a stream easier for a byte codec."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from golfpack.base.convert import make, require
from golfpack.errors import UsageError


class Filter(Protocol):
    """What every entry of `FILTERS` offers; size never changes."""

    filter_id: ClassVar[str]

    def encode(self, data: bytes) -> bytes: ...

    def decode(self, data: bytes) -> bytes: ...


@dataclass(frozen=True)
class Shuffle:
    """Deal the bytes into `stride` piles, pile after pile: byte k of every stride-byte element together.

    The records run it with stride 2 over their whole blob (2026-04-01 onwards). A tail shorter than
    the stride takes part: pile p holds bytes p, p + stride, p + 2 stride, ...
    """

    filter_id: ClassVar[str] = "shuffle"
    stride: int = 2

    def __post_init__(self) -> None:
        what = f"filter {self.filter_id!r}: stride cannot be {self.stride}"
        require(1 <= self.stride <= 255, what, "1 to 255")

    def encode(self, data: bytes) -> bytes:
        return b"".join(data[p :: self.stride] for p in range(self.stride))

    def decode(self, data: bytes) -> bytes:
        out = bytearray(len(data))
        start = 0
        for p in range(self.stride):
            size = len(range(p, len(data), self.stride))
            out[p :: self.stride] = data[start : start + size]
            start += size
        return bytes(out)


FILTERS: dict[str, type[Any]] = {f.filter_id: f for f in (Shuffle,)}


def filter_config(f: Filter) -> dict[str, Any]:
    """The filter as JSON: its id and its options."""
    return {"id": f.filter_id, **asdict(f)}  # type: ignore[call-overload]


def make_filter(config: dict[str, Any] | str) -> Filter:
    """The filter that `filter_config` described, or that a recipe names by id alone.

    Raises:
        UsageError: unknown id, unknown option or a stride that is no stride.
    """
    fields = dict(config) if isinstance(config, dict) else {"id": config}
    filter_id = fields.pop("id", None)
    if not isinstance(filter_id, str) or filter_id not in FILTERS:
        raise UsageError(f"unknown filter {filter_id!r}", f"known filters: {', '.join(FILTERS)}")
    return make(FILTERS[filter_id], fields, f"filter {filter_id!r}")
