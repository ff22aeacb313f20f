"""Code streams: matrices of codes <-> the bytes of one stream, and which tensors share one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.format.codec import Codec
from golfpack.packer.format.codecs import codec_config, make_codec
from golfpack.packer.format.filters import Filter, filter_config, make_filter
from golfpack.packer.format.rans.codes import decode_matrices, encode_codes
from golfpack.packer.format.rans.context_model import ScaleModel
from golfpack.packer.format.rans.tables import LEVELS
from golfpack.packer.format.steps import StepField
from golfpack.packer.format.tensors import QTensor, States, code_matrix
from golfpack.packer.format.trellis import FINE, STATES

# The order of a sorted matrix's rows takes this type.
ORDER_TYPE = np.dtype("<u2")
# Matrices of more rows keep their order: finding a better one takes time as the square of the rows.
MAX_SORTED_ROWS = 1 << 14


@dataclass(frozen=True)
class ByteStream:
    """A stream of bytes: filters, then a codec. `order` "col" writes each code matrix transposed."""

    codec: Codec
    filters: tuple[Filter, ...] = ()
    order: Literal["row", "col"] = "row"

    def encode(self, data: bytes) -> bytes:
        for f in self.filters:
            data = f.encode(data)
        return self.codec.encode(data)

    def decode(self, data: bytes, size: int) -> bytes:
        data = self.codec.decode(data, size)
        for f in reversed(self.filters):
            data = f.decode(data)
        return data

    def config(self) -> dict[str, Any]:
        """As JSON, without what is as usual; `from_config` inverts it."""
        filters = [filter_config(f) for f in self.filters]
        return {
            "codec": codec_config(self.codec),
            **({"filters": filters} if filters else {}),
            **({"order": self.order} if self.order != "row" else {}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ByteStream":
        """Raises UsageError for an unknown codec, filter or order."""
        order = config.get("order", "row")
        if order not in ("row", "col"):
            raise UsageError(f"unknown code order {order!r}", "orders: row, col")
        filters = tuple(make_filter(f) for f in config.get("filters", []))
        return cls(make_codec(config["codec"]), filters, order)


@dataclass(frozen=True)
class RansCodes:
    """golfpack's own entropy coder for codes: interleaved rANS, whose contexts are the steps."""

    def config(self) -> dict[str, Any]:
        return {"codec": {"id": "rans"}}


CodeStream = ByteStream | RansCodes


@dataclass(frozen=True)
class CodeGroup:
    """Tensors whose codes share a stream.

    Attributes:
        names: of the tensors.
        stream: how their codes are coded.
        sort: those of them whose rows are stored in an order of similarity; none under rANS.
    """

    names: tuple[str, ...]
    stream: CodeStream
    sort: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class CodedGroup:
    """One code stream as it is stored.

    Attributes:
        data: the stream.
        orders: per sorted tensor, the row that stands at each place, (rows,).
    """

    data: bytes
    orders: dict[str, np.ndarray]


def encode_group(group: CodeGroup, tensors: Mapping[str, QTensor], threads: int = 1) -> CodedGroup:
    """Code a group's tensors, each followed by the factors of its correction."""
    orders = {n: _similarity_order(tensors[n].codes) for n in group.names if n in group.sort}
    matrices: list[QTensor] = []
    for n in group.names:
        own, *factors = code_matrices(tensors[n])
        if n in orders:
            own = replace(own, codes=own.codes[orders[n]])
        matrices += [own, *factors]
    return CodedGroup(_encode(group.stream, matrices, threads), orders)


def sortable(tensors: Mapping[str, QTensor]) -> frozenset[str]:
    """Those whose rows there is a point in sorting, and time for."""
    return frozenset(n for n, t in tensors.items() if 2 < len(t.codes) <= MAX_SORTED_ROWS)


def code_matrices(t: QTensor) -> list[QTensor]:
    """A tensor's matrices of codes in stored order: its own, then its correction's A^T and B."""
    return [t] if t.correction is None else [t, t.correction.a, t.correction.b]


def _similarity_order(codes: np.ndarray) -> np.ndarray:
    from golfpack.packer.format.similar import similarity_order

    return similarity_order(codes)


def _encode(stream: CodeStream, matrices: Sequence[QTensor], threads: int) -> bytes:
    if isinstance(stream, RansCodes):
        scales = [None if m.states is None else m.states.scales for m in matrices]
        return encode_codes(
            [m.codes for m in matrices], [m.known for m in matrices], threads, scales
        )
    if any(m.states is not None for m in matrices):
        raise UsageError(
            "codes with states are for the code coder alone, which knows what may follow what",
            "set encode.codec=rans, or policy.trellis=false",
        )
    parts: list[bytes] = []
    for m in matrices:
        codes = m.codes.T if stream.order == "col" else m.codes
        parts.append(codes.astype(f"<i{code_width(m.codes)}").tobytes())
    return stream.encode(b"".join(parts))


def code_width(codes: np.ndarray) -> int:
    """Bytes that each code takes under a byte codec: 1, 2 or 4."""
    top = int(np.abs(codes.astype(np.int64)).max(initial=0))
    return 1 if top < 1 << 7 else 2 if top < 1 << 15 else 4


@dataclass(frozen=True, eq=False)
class CodeSlot:
    """What a reader knows of a matrix of codes before it has them: `fields` are its manifest's."""

    shape: tuple[int, int]
    steps: StepField
    fields: Mapping[str, Any]

    @property
    def sorted(self) -> bool:
        """Whether its rows are stored in another order. Raises CorruptError where that is unclear."""
        if "sorted" in self.fields and self.fields["sorted"] is not True:
            raise CorruptError('a tensor has a "sorted" in the manifest that is not true', None)
        return "sorted" in self.fields

    @property
    def fine_from(self) -> int | None:
        """Of codes with states, see `States`; None of others. Raises CorruptError where unclear."""
        if "trellis" not in self.fields and "fine" not in self.fields:
            return None
        told = self.fields.get("trellis"), self.fields.get("fine", FINE)
        if told != (STATES, FINE) or {type(n) for n in told} != {int}:
            raise CorruptError(
                f"a tensor in the manifest has codes with states of an unknown kind: {told!r:.40}",
                None,
            )
        return FINE if "fine" in self.fields else LEVELS


def decode_group(
    config: Mapping[str, Any], data: bytes, slots: Sequence[CodeSlot]
) -> list[QTensor]:
    """The inverse of `encode_group`, but for the rows' order and corrections: what every slot holds.

    Args:
        config: `CodeStream.config()`.
        data: the stream as it is stored.
        slots: of all matrices in it.

    Raises:
        CorruptError: the stream does not hold what the slots say. UsageError: an unknown codec.
    """
    coder = config["codec"]["id"]
    return DECODERS[coder if coder in DECODERS else "bytes"](config, data, slots)


def _decode_rans(
    _config: Mapping[str, Any], data: bytes, slots: Sequence[CodeSlot]
) -> list[QTensor]:
    if any(s.sorted for s in slots):
        raise CorruptError("a rans code stream has sorted rows", None)
    # The coder leaves out what is empty; a column log for each of its columns may fill the memory.
    full = [s for s in slots if 0 not in s.shape]
    matrices = [code_matrix(s.shape, s.steps, s.fine_from) for s in full]
    decoded = iter(decode_matrices(data, matrices))
    return [
        QTensor(np.zeros(s.shape, np.int32), s.steps) if 0 in s.shape else _held(s, *next(decoded))
        for s in slots
    ]


def _held(slot: CodeSlot, codes: np.ndarray, scales: ScaleModel | None) -> QTensor:
    if slot.fine_from is None:
        return QTensor(codes, slot.steps)
    assert scales is not None
    return QTensor(codes, slot.steps, states=States(scales, slot.fine_from))


def _decode_bytes(
    config: Mapping[str, Any], data: bytes, slots: Sequence[CodeSlot]
) -> list[QTensor]:
    if any(s.fine_from is not None for s in slots):
        raise CorruptError("a byte stream has codes with states", None)
    stream = ByteStream.from_config(config)
    widths = [s.fields["width"] for s in slots]
    if not set(widths) <= {1, 2, 4}:
        raise CorruptError(f"code widths {sorted(set(widths))} are not all 1, 2 or 4", None)
    sizes = [s.shape[0] * s.shape[1] * width for s, width in zip(slots, widths, strict=True)]
    data = stream.decode(data, sum(sizes))
    out: list[QTensor] = []
    at = 0
    for slot, width, size in zip(slots, widths, sizes, strict=True):
        rows, cols = slot.shape
        flat = np.frombuffer(data[at : at + size], f"<i{width}").astype(np.int32)
        by_column = stream.order == "col"
        codes = flat.reshape(cols, rows).T if by_column else flat.reshape(rows, cols)
        out.append(QTensor(codes, slot.steps))
        at += size
    return out


# What decodes a code stream, by the id of its coder; "bytes" stands for every byte codec.
DECODERS = {"rans": _decode_rans, "bytes": _decode_bytes}
