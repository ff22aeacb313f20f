"""Tensors <-> streams: which bytes of a tensor go to which stream, and what the manifest says of it.

Each stream is the concatenation of its part of every tensor in manifest order: `steps` holds log steps,
`rows` float16 steps, `perms` the order of sorted rows, `raw` the kept floats, `codes` the integers (or
`codes.0`, `codes.1`, ... where tensors are coded in groups). Steps come before codes because the code
coder uses the steps as context.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, cast

import numpy as np

from golfpack.errors import CorruptError
from golfpack.packer.format.codestreams import (
    ORDER_TYPE,
    ByteStream,
    CodeGroup,
    CodeSlot,
    code_matrices,
    code_width,
    decode_group,
    encode_group,
)
from golfpack.packer.format.rans.vectors import decode_vectors
from golfpack.packer.format.rawfloat import RAW_STORAGE
from golfpack.packer.format.stepcoding import (
    OLD_STEPS,
    f16_bytes,
    old_logs,
    old_row_bytes,
    pack_steps,
    step_counts,
    step_plan,
    unpack_steps,
)
from golfpack.packer.format.tensors import LowRank, PackedTensor, QTensor, Raw
from golfpack.packer.format.trellis import FINE, STATES
from golfpack.spec import as_matrix

# Hard limits on what a manifest may claim.
MAX_TENSORS = 1 << 16
MAX_AXES = 8
MAX_WEIGHTS = 1 << 30
MAX_CORRECTION_RANK = 256
MAX_ORDERED_ROWS = 1 << (8 * ORDER_TYPE.itemsize)


def encode_tensors(
    tensors: Mapping[str, PackedTensor],
    shapes: Mapping[str, tuple[int, ...]],
    roles: Mapping[str, str],
    groups: Sequence[CodeGroup],
    side: ByteStream,
    threads: int = 1,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest's part on tensors, and the coded streams.

    Args:
        tensors: in the order they are to be stored.
        shapes: each tensor's own shape.
        roles: each tensor's role, kept for reports.
        groups: which quantized tensors share a code stream, in stored order; none is left out.
        side: how all other streams are coded.
        threads: changes nothing but the time.
    """
    quantized = {n: t for n, t in tensors.items() if isinstance(t, QTensor)}
    coded = [encode_group(group, quantized, threads) for group in groups]
    group_of = {name: i for i, group in enumerate(groups) for name in group.names}
    writer = _Writer()
    entries: list[dict[str, Any]] = []
    for name, t in tensors.items():
        fields: dict[str, Any] = {"name": name, "shape": list(shapes[name]), "role": roles[name]}
        if isinstance(t, Raw):
            fields |= writer.raw(t)
        else:
            at = group_of[name]
            order = coded[at].orders.get(name)
            fields |= writer.quantized(t, isinstance(groups[at].stream, ByteStream), order)
            if len(groups) > 1:
                fields["stream"] = at
        entries.append(fields)
    configs = [group.stream.config() for group in groups]
    codes = configs[0] if len(groups) == 1 else configs
    manifest = {"tensors": entries, "codes": codes, "side": side.config()}
    streams = writer.streams(side)
    for name, group in zip(_code_streams(codes), coded, strict=True):
        streams[name] = group.data
    return manifest, streams


class _Writer:
    """Collects what tensors put into the side streams, and says what the manifest must of it."""

    def __init__(self) -> None:
        self.parts: dict[str, list[bytes]] = {"rows": [], "raw": [], "perms": []}
        self.logs: list[tuple[tuple[str, int], np.ndarray]] = []

    def raw(self, t: Raw) -> dict[str, Any]:
        self.parts["raw"].append(np.ascontiguousarray(t.values, RAW_STORAGE[t.dtype]).tobytes())
        return {"raw": t.dtype}

    def quantized(self, t: QTensor, widths: bool, order: np.ndarray | None) -> dict[str, Any]:
        fields, *factors = (self._matrix(m, widths) for m in code_matrices(t))
        if order is not None:
            fields["sorted"] = True
            self.parts["perms"].append(order.astype(ORDER_TYPE).tobytes())
        if t.correction is not None:
            a, b = factors
            fields["correction"] = {"rank": len(t.correction.a.codes), "a": a, "b": b}
        return fields

    def _matrix(self, m: QTensor, widths: bool) -> dict[str, Any]:
        steps = pack_steps(m.steps, m.codes.shape[1])
        fields = steps.fields
        self.parts["rows"].append(steps.f16)
        self.logs += steps.logs
        if widths:
            fields["width"] = code_width(m.codes)
        if m.states is not None:
            fields["trellis"] = STATES
            if m.states.fine_from == FINE:
                fields["fine"] = FINE
        return fields

    def streams(self, side: ByteStream) -> dict[str, bytes]:
        from golfpack.packer.format.rans.fit_vectors import encode_vectors

        logs = {"steps": encode_vectors(self.logs)} if self.logs else {}
        plain = {name: b"".join(parts) for name, parts in self.parts.items()}
        return logs | {name: side.encode(data) for name, data in plain.items() if data}


def _code_streams(codes: Any) -> dict[str, Any]:
    """Name and config of every code stream, from the manifest's "codes"."""
    if isinstance(codes, list):
        return {f"codes.{i}": config for i, config in enumerate(cast(list[Any], codes))}
    return {"codes": codes}


# --- the way back ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one tensor; `fields` is its JSON."""

    name: str
    shape: tuple[int, ...]
    role: str
    fields: dict[str, Any]

    @property
    def code_stream(self) -> str:
        """The name of the stream that holds its codes, for a quantized tensor."""
        return f"codes.{self.fields['stream']}" if "stream" in self.fields else "codes"

    @cached_property
    def matrices(self) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """Shape and fields of its matrices of codes: none, its own, or those of a correction as well."""
        if "raw" in self.fields:
            return []
        rows, cols = as_matrix(self.shape)
        own = ((rows, cols), self.fields)
        if "correction" not in self.fields:
            return [own]
        correction = self.fields["correction"]
        rank = correction["rank"]
        if type(rank) is not int or not 1 <= rank <= MAX_CORRECTION_RANK:
            raise CorruptError("a tensor's correction in the manifest has no possible rank", None)
        return [own, ((rank, rows), correction["a"]), ((rank, cols), correction["b"])]


def decode_tensors(
    manifest: Mapping[str, Any], streams: Mapping[str, bytes], version: int
) -> dict[str, tuple[Entry, PackedTensor]]:
    """Every tensor, in manifest order, of a file of this version of the format.

    Raises CorruptError or UsageError on anything inconsistent.
    """
    try:
        entries = [_entry(e) for e in manifest["tensors"]]
        if len(entries) > MAX_TENSORS or sum(map(_claim, entries)) > MAX_WEIGHTS:
            raise CorruptError("the manifest claims more tensors than any model has", None)
        if len({e.name for e in entries}) != len(entries):
            raise CorruptError("the manifest names a tensor twice", None)
        return _decode_entries(entries, manifest, streams, version)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise CorruptError(
            f"the manifest is inconsistent: {e!r}", "get the file again and compare its sha256"
        ) from e


def _entry(fields: Mapping[str, Any]) -> Entry:
    shape: Any = fields["shape"]
    if (
        not isinstance(shape, list)
        or len(cast(list[Any], shape)) > MAX_AXES
        or not all(type(d) is int and 0 <= d <= MAX_WEIGHTS for d in cast(list[Any], shape))
    ):
        raise CorruptError("a tensor's shape in the manifest is no shape", None)
    if ("raw" in fields) == ("rows" in fields):
        raise CorruptError("a tensor in the manifest must be quantized or kept, one of them", None)
    if type(fields.get("stream", 0)) is not int:
        raise CorruptError("a tensor's code stream in the manifest is no number", None)
    return Entry(
        str(fields["name"]), tuple(cast(list[int], shape)), str(fields["role"]), dict(fields)
    )


def _claim(e: Entry) -> int:
    """Weights, codes and steps of a tensor: a matrix without weights may still have many steps."""
    steps = sum(sum(step_counts(fields, shape)) for shape, fields in e.matrices)
    return prod(e.shape) + sum(prod(shape) for shape, _ in e.matrices[1:]) + steps


def _decode_entries(
    entries: list[Entry],
    manifest: Mapping[str, Any],
    streams: Mapping[str, bytes],
    version: int,
) -> dict[str, tuple[Entry, PackedTensor]]:
    side, left = ByteStream.from_config(manifest["side"]), dict(streams)
    slots = _read_steps(entries, side, left, version)
    stored = _read_codes(slots, manifest["codes"], left)
    matrices = iter(_restored(slots, stored, side, left))
    raw = _Reader(side, left, "raw", sum(map(_raw_bytes, entries)))
    if left:
        raise CorruptError(f"no tensor in the manifest needs stream {min(left)!r}", None)
    out: dict[str, tuple[Entry, PackedTensor]] = {}
    for e in entries:
        if "raw" in e.fields:
            values = np.frombuffer(raw.take(_raw_bytes(e)), RAW_STORAGE[e.fields["raw"]])
            out[e.name] = (e, Raw(values.reshape(e.shape), e.fields["raw"]))
        else:
            own, *factors = (next(matrices) for _ in e.matrices)
            correction = LowRank(*factors) if factors else None
            out[e.name] = (e, replace(own, correction=correction))
    return out


class _Reader:
    """Takes a side stream out of `streams`, and hands it out decoded, piece by piece."""

    def __init__(self, side: ByteStream, streams: dict[str, bytes], name: str, size: int) -> None:
        self.data = side.decode(streams.pop(name), size) if size else b""
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]


def _raw_bytes(e: Entry) -> int:
    return prod(e.shape) * RAW_STORAGE[e.fields["raw"]].itemsize if "raw" in e.fields else 0


# All matrices of codes in manifest order, each with its stream's name.
_Slots = list[tuple[str, CodeSlot]]


def _read_steps(
    entries: list[Entry], side: ByteStream, streams: dict[str, bytes], version: int
) -> _Slots:
    found = [(e, shape, fields) for e in entries for shape, fields in e.matrices]
    matrices = [(shape, fields) for _, shape, fields in found]
    read = STEPS[version > OLD_STEPS](matrices, side, streams)
    slots: _Slots = []
    for (e, shape, fields), (f16, logs) in zip(found, read, strict=True):
        steps = unpack_steps(e.name, fields, shape, f16, logs)
        slots.append((e.code_stream, CodeSlot(shape, steps, fields)))
    return slots


_Matrices = Sequence[tuple[tuple[int, int], Mapping[str, Any]]]
# Of each matrix its bytes of float16 steps, and its log steps by side.
_Steps = Iterator[tuple[bytes, dict[str, np.ndarray]]]


def _told_steps(matrices: _Matrices, side: ByteStream, streams: dict[str, bytes]) -> _Steps:
    """Since version 4."""
    plans = [step_plan(fields, shape) for shape, fields in matrices]
    sizes = [f16_bytes(fields, shape) for shape, fields in matrices]
    logs = [item for plan in plans for item in plan]
    vectors = iter(LOGS["vectors"](streams.pop("steps"), logs) if logs else [])
    rows = _Reader(side, streams, "rows", sum(sizes))
    for plan, size in zip(plans, sizes, strict=True):
        yield (
            rows.take(size),
            {name: grain * next(vectors).astype(np.int64) for (name, grain), _ in plan},
        )


def _byte_steps(matrices: _Matrices, side: ByteStream, streams: dict[str, bytes]) -> _Steps:
    """Up to version 3."""
    row_sizes = [old_row_bytes(fields, shape) for shape, fields in matrices]
    col_sizes = [step_counts(fields, shape)[1] for shape, fields in matrices]
    rows = _Reader(side, streams, "rows", sum(row_sizes))
    cols = _Reader(side, streams, "cols", sum(col_sizes))
    for (_, fields), row, col in zip(matrices, row_sizes, col_sizes, strict=True):
        data = rows.take(row)
        yield data, old_logs(fields, data, cols.take(col))


# Tables, so that stand-alone decoders can leave out what they do not need: what decodes log steps,
LOGS = {"vectors": decode_vectors}
# and, by whether it is of a version beyond OLD_STEPS, what reads a file's steps.
STEPS = {False: _byte_steps, True: _told_steps}


def _read_codes(slots: _Slots, config: Any, streams: dict[str, bytes]) -> list[QTensor]:
    """What every slot holds, each group's rows as they are stored."""
    configs = _code_streams(config)
    found: dict[str, list[int]] = {}
    for i, (stream, _) in enumerate(slots):
        found.setdefault(stream, []).append(i)
    held: list[QTensor | None] = [None] * len(slots)
    for stream, where in found.items():
        members = [slots[i][1] for i in where]
        group = decode_group(configs[stream], streams.pop(stream), members)
        for i, matrix in zip(where, group, strict=True):
            held[i] = matrix
    return [m for m in held if m is not None]


def _restored(
    slots: _Slots, stored: list[QTensor], side: ByteStream, streams: dict[str, bytes]
) -> list[QTensor]:
    """The matrices with the rows of sorted ones back where they belong."""
    sizes = [
        ORDER_TYPE.itemsize * len(m.codes) if slot.sorted else 0
        for m, (_, slot) in zip(stored, slots, strict=True)
    ]
    perms = _Reader(side, streams, "perms", sum(sizes))
    orders = [np.frombuffer(perms.take(size), ORDER_TYPE) for size in sizes]
    return [
        replace(m, codes=_in_order(m.codes, order)) if size else m
        for m, order, size in zip(stored, orders, sizes, strict=True)
    ]


def _in_order(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Row p of `codes` becomes row order[p]."""
    rows = len(codes)
    if rows > MAX_ORDERED_ROWS or not np.array_equal(np.sort(order), np.arange(rows)):
        raise CorruptError("a tensor's rows are sorted into no possible order", None)
    restored = np.empty_like(codes)
    restored[order] = codes
    return restored
