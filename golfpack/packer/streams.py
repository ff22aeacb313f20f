"""Tensors <-> streams: which bytes of a tensor go to which stream, and how each stream is coded.

Four streams, each the concatenation of its part of every tensor in manifest order:
`rows` and `cols` (the step fields), `codes` (the integers) and `raw` (kept floats). Steps come before
codes because the code coder uses the steps as context.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.coding.codecs import Codec, codec_config, make_codec
from golfpack.packer.coding.codes import decode_codes, encode_codes
from golfpack.packer.coding.filters import Filter, filter_config, make_filter
from golfpack.packer.coding.scale import CodeMatrix
from golfpack.packer.ir import PackedTensor, QTensor, Raw, as_matrix
from golfpack.packer.rawfloat import RAW_STORAGE
from golfpack.packer.steps import COL_OCTAVE, ROW_OCTAVE, F16Steps, LogSteps, StepField

# Hard limits on what a manifest may claim.
MAX_TENSORS = 1 << 16
MAX_RANK = 8
MAX_WEIGHTS = 1 << 30
# Steps lie within 2^-MAX_OCTAVES and 2^MAX_OCTAVES; float32 ends at 2^128.
MAX_OCTAVES = 126


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
        """As JSON; `from_config` inverts it."""
        return {
            "codec": codec_config(self.codec),
            "filters": [filter_config(f) for f in self.filters],
            "order": self.order,
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
    """The code stream under golfpack's own rANS (`packer.coding.codes`)."""

    def config(self) -> dict[str, Any]:
        return {"codec": {"id": "rans"}}


CodeStream = ByteStream | RansCodes


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one tensor; `fields` is its JSON."""

    name: str
    shape: tuple[int, ...]
    role: str
    fields: dict[str, Any]


def encode_tensors(
    tensors: Mapping[str, PackedTensor],
    shapes: Mapping[str, tuple[int, ...]],
    roles: Mapping[str, str],
    codes: CodeStream,
    side: ByteStream,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest's part on tensors, and the coded streams.

    Args:
        tensors: in the order they are to be stored.
        shapes: each tensor's own shape.
        roles: each tensor's role, kept for reports.
        codes: how the code stream is coded.
        side: how the streams of steps and raw floats are coded.
    """
    entries, rows, cols, raw = [], [], [], []
    for name, t in tensors.items():
        fields: dict[str, Any] = {"name": name, "shape": list(shapes[name]), "role": roles[name]}
        if isinstance(t, Raw):
            fields["raw"] = t.dtype
            raw.append(np.ascontiguousarray(t.values).astype(RAW_STORAGE[t.dtype]).tobytes())
        else:
            fields |= _step_fields(t.steps, rows, cols)
            if isinstance(codes, ByteStream):
                fields["width"] = _width(t.codes)
        entries.append(fields)
    manifest = {"tensors": entries, "codes": codes.config(), "side": side.config()}
    streams = {"rows": b"".join(rows), "cols": b"".join(cols), "raw": b"".join(raw)}
    coded = {name: side.encode(data) for name, data in streams.items() if data}
    quantised = {n: t for n, t in tensors.items() if isinstance(t, QTensor)}
    if quantised:
        coded["codes"] = _encode_codes(quantised, codes)
    return manifest, coded


def _step_fields(steps: StepField, rows: list[bytes], cols: list[bytes]) -> dict[str, Any]:
    if isinstance(steps, F16Steps):
        rows.append(steps.row_f16.astype("<f2").tobytes())
        return {"rows": "f16"}
    fields = {"rows": _pack_log(steps.row_log, rows)}
    if steps.col_log is not None:
        fields["cols"] = _pack_log(steps.col_log, cols)
    return fields


def _pack_log(log: np.ndarray, out: list[bytes]) -> list[int]:
    """Append log steps as bytes above a base; returns [base, grain]."""
    if not log.size:
        return [0, 1]
    base = int(log.min())
    grain = int(np.gcd.reduce(log - base)) or 1
    out.append(((log - base) // grain).astype(np.uint8).tobytes())
    return [base, grain]


def _width(codes: np.ndarray) -> int:
    top = int(np.abs(codes.astype(np.int64)).max(initial=0))
    return 1 if top < 1 << 7 else 2 if top < 1 << 15 else 4


def _encode_codes(tensors: Mapping[str, QTensor], codes: CodeStream) -> bytes:
    if isinstance(codes, RansCodes):
        return encode_codes(
            [t.codes for t in tensors.values()],
            [_code_matrix(t.codes.shape, t.steps) for t in tensors.values()],
        )
    parts = []
    for t in tensors.values():
        matrix = t.codes.T if codes.order == "col" else t.codes
        parts.append(matrix.astype(f"<i{_width(t.codes)}").tobytes())
    return codes.encode(b"".join(parts))


def _code_matrix(shape: tuple[int, ...], steps: StepField) -> CodeMatrix:
    rows, cols = shape
    if isinstance(steps, LogSteps):
        col = np.zeros(cols, np.int32) if steps.col_log is None else steps.col_log
        return CodeMatrix((rows, cols), steps.row_log, col)
    return CodeMatrix((rows, cols), np.zeros(rows, np.int32), np.zeros(cols, np.int32))


# --- the way back ----------------------------------------------------------------------------------


def decode_tensors(
    manifest: Mapping[str, Any], streams: Mapping[str, bytes]
) -> dict[str, tuple[Entry, PackedTensor]]:
    """Every tensor, in manifest order. Raises CorruptError or UsageError on anything inconsistent."""
    try:
        entries = [_entry(e) for e in manifest["tensors"]]
        if len(entries) > MAX_TENSORS or sum(map(_claim, entries)) > MAX_WEIGHTS:
            raise CorruptError("the manifest claims more tensors than any model has", None)
        if len({e.name for e in entries}) != len(entries):
            raise CorruptError("the manifest names a tensor twice", None)
        return _decode_entries(entries, manifest, streams)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise CorruptError(
            f"the manifest is inconsistent: {e!r}", "get the file again and compare its sha256"
        ) from e


def _decode_entries(
    entries: list[Entry], manifest: Mapping[str, Any], streams: Mapping[str, bytes]
) -> dict[str, tuple[Entry, PackedTensor]]:
    side = ByteStream.from_config(manifest["side"])
    quantised = [e for e in entries if "rows" in e.fields]
    rows = _Reader(side, streams, "rows", sum(_row_bytes(e) for e in quantised))
    cols = _Reader(side, streams, "cols", sum(_col_bytes(e) for e in quantised))
    steps = [_read_steps(e, rows, cols) for e in quantised]
    codes = iter(_decode_codes(quantised, steps, manifest["codes"], streams))
    raw = _Reader(side, streams, "raw", sum(_raw_bytes(e) for e in entries if "raw" in e.fields))
    step = iter(steps)
    out: dict[str, tuple[Entry, PackedTensor]] = {}
    for e in entries:
        if "raw" in e.fields:
            values = np.frombuffer(raw.take(_raw_bytes(e)), RAW_STORAGE[e.fields["raw"]])
            out[e.name] = (e, Raw(values.reshape(e.shape), e.fields["raw"]))
        else:
            out[e.name] = (e, QTensor(next(codes), next(step)))
    return out


class _Reader:
    """Hands out a decoded side stream piece by piece."""

    def __init__(
        self, side: ByteStream, streams: Mapping[str, bytes], name: str, size: int
    ) -> None:
        self.data = side.decode(streams[name], size) if size else b""
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]


def _entry(fields: Mapping[str, Any]) -> Entry:
    shape = fields["shape"]
    ok = isinstance(shape, list) and len(shape) <= MAX_RANK
    if not ok or not all(type(d) is int and 0 <= d <= MAX_WEIGHTS for d in shape):
        raise CorruptError("a tensor's shape in the manifest is no shape", None)
    if ("raw" in fields) == ("rows" in fields):
        raise CorruptError("a tensor in the manifest must be quantised or kept, one of them", None)
    return Entry(str(fields["name"]), tuple(shape), str(fields["role"]), dict(fields))


def _claim(e: Entry) -> int:
    """Weights and steps of a tensor: a matrix without weights may still have many steps."""
    rows, cols = as_matrix(e.shape)
    return rows * cols + rows + cols


def _row_bytes(e: Entry) -> int:
    rows, _ = as_matrix(e.shape)
    return rows * (2 if e.fields["rows"] == "f16" else 1)


def _col_bytes(e: Entry) -> int:
    return as_matrix(e.shape)[1] if "cols" in e.fields else 0


def _raw_bytes(e: Entry) -> int:
    return prod(e.shape) * RAW_STORAGE[e.fields["raw"]].itemsize


def _read_steps(e: Entry, rows: _Reader, cols: _Reader) -> StepField:
    data = rows.take(_row_bytes(e))
    if e.fields["rows"] == "f16":
        f16 = np.frombuffer(data, "<f2")
        if not ((f16 > 0) & np.isfinite(f16)).all():
            raise CorruptError(f"tensor {e.name!r} has a step that is no step", None)
        return F16Steps(f16)
    row = _unpack_log(data, e.fields["rows"], ROW_OCTAVE)
    if "cols" not in e.fields:
        return LogSteps(row)
    return LogSteps(row, _unpack_log(cols.take(_col_bytes(e)), e.fields["cols"], COL_OCTAVE))


def _unpack_log(data: bytes, base_grain: list[int], octave: int) -> np.ndarray:
    base, grain = base_grain
    limit = MAX_OCTAVES * octave
    if type(base) is not int or type(grain) is not int or not 0 < grain <= limit >= abs(base):
        raise CorruptError(f"step base {base!r} and grain {grain!r} are out of range", None)
    log = base + grain * np.frombuffer(data, np.uint8).astype(np.int32)
    if np.abs(log).max(initial=0) > limit:
        raise CorruptError(f"steps up to 2^{log.max() / octave:.0f} are out of range", None)
    return log


def _decode_codes(
    entries: list[Entry],
    steps: list[StepField],
    config: Mapping[str, Any],
    streams: Mapping[str, bytes],
) -> list[np.ndarray]:
    shapes = [as_matrix(e.shape) for e in entries]
    if not entries:
        return []
    if config["codec"]["id"] == "rans":
        matrices = [_code_matrix(shape, s) for shape, s in zip(shapes, steps, strict=True)]
        return decode_codes(streams["codes"], matrices)
    stream = ByteStream.from_config(config)
    widths = [e.fields["width"] for e in entries]
    if not set(widths) <= {1, 2, 4}:
        raise CorruptError(f"code widths {sorted(set(widths))} are not all 1, 2 or 4", None)
    sizes = [r * c * w for (r, c), w in zip(shapes, widths, strict=True)]
    data = stream.decode(streams["codes"], sum(sizes))
    out, at = [], 0
    for (r, c), width, size in zip(shapes, widths, sizes, strict=True):
        flat = np.frombuffer(data[at : at + size], f"<i{width}").astype(np.int32)
        out.append(flat.reshape(c, r).T if stream.order == "col" else flat.reshape(r, c))
        at += size
    return out
