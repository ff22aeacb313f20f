"""Quantized exports of the challenge's records, read back as floats, and the streams they come in.

Formats: openai/parameter-golf. The baseline's `dequantize_state_dict_int8`, and `dequantize_mixed` of
the records from 2026-03-20 on: {"w": tensors, "m": what each is}. Both are rounded as their own readers
do it; the second kind does not say which dtype a tensor had, so that its codes come back as float32.
"""

import lzma
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import brotli
import torch
import zstandard

from golfpack.errors import UsageError

# An artifact is 16 MB and holds some 40 MB of codes; this only stops bombs.
MAX_INFLATED_BYTES = 1 << 30
INT8_FORMAT = "int8_clean_per_row_v1"
# That of 6 or 8 bits, told for every tensor, is read alike: its codes are int8 as well.
_INT8_FORMATS = (INT8_FORMAT, "int6_8_clean_per_row_v1")
_INT8_TABLES = {
    "__quant_format__", "quantized", "scales", "dtypes", "passthrough", "passthrough_orig_dtypes",
    "qmeta", "bitwidths",
}  # fmt: skip
_SHUFFLED = b"BSHF"
_DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.bfloat16, torch.float16)}


def inflate(data: bytes, path: Path) -> bytes | None:
    """What a compressed stream holds, its bytes in their own order; None where it is no stream.

    Zlib (RFC 1950), LZMA in .xz or .lzma, and zstd (RFC 8878) are told by how they begin. Brotli
    (RFC 7932) has no such mark: it is tried where a file's name ends in .br, .brotli or .ptz.

    Raises:
        UsageError: a damaged or truncated stream, or one of more than MAX_INFLATED_BYTES.
    """
    if data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0:
        out = _through(_zlib, data, path, "zlib")
    elif data.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        out = _through(_lzma, data, path, "LZMA")
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        out = _through(_zstd, data, path, "zstd")
    elif path.suffix in (".br", ".brotli", ".ptz"):
        out = _through(_brotli, data, path, "brotli")
    else:
        return None
    return _unshuffled(out, path)


def dequantize(saved: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor] | None:
    """The floats of an export; None where `saved` is none.

    Raises:
        UsageError: an export of a kind that is not known, or whose tables do not fit each other.
    """
    if "__quant_format__" in saved:
        read, kind = _int8, str(saved["__quant_format__"])
        if kind not in _INT8_FORMATS:
            raise UsageError(
                f"{path} has the unknown quantized format {kind!r}, with {', '.join(map(str, saved))}",
                f"golfpack reads {', '.join(_INT8_FORMATS)} and the records' w and m; give the float "
                "checkpoint",
            )
    elif saved.keys() == {"w", "m"} and all(isinstance(saved[k], dict) for k in "wm"):
        read, kind = _mixed, "mixed export"
    else:
        return None
    try:
        return read(saved)
    except (KeyError, AttributeError, TypeError, RuntimeError, ValueError, IndexError) as error:
        raise UsageError(
            f"{path}: its {kind} tables do not fit each other ({error})", "export the model again"
        ) from error


def _int8(saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    if unknown := saved.keys() - _INT8_TABLES:
        raise ValueError(f"{min(map(str, unknown))} is no table of that format")
    for name, how in saved.get("qmeta", {}).items():
        if how != {"scheme": "per_row", "axis": 0}:
            raise ValueError(f"{name} is quantized by {how}, not by rows")
    state = {}
    for name, q in saved["quantized"].items():
        state[name] = _scaled(q, saved["scales"][name]).to(_DTYPES[saved["dtypes"][name]])
    original = saved.get("passthrough_orig_dtypes", {})
    for name, tensor in saved["passthrough"].items():
        state[name] = tensor.to(_DTYPES[original[name]] if name in original else tensor.dtype)
    return state


def _mixed(saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    stored, state, used = saved["w"], dict[str, torch.Tensor](), set[str]()

    def take(name: str) -> torch.Tensor:
        used.add(name)
        return stored[name]

    for name, what in saved["m"].items():
        kind = what["type"] if isinstance(what, dict) else str(what)
        if "passthrough" in kind:
            state[name] = take(name)
        elif kind == "gate_int8_row":
            state[name] = _scaled(take(f"{name}.gq"), take(f"{name}.gs"))
        else:
            state[name] = _scaled(take(f"{name}.q"), take(f"{name}.scale"))
        if "lqer" in kind:
            state[name] = state[name] + _low_rank(name, take, grouped="lqer_asym" in kind)
    if rest := stored.keys() - used:
        raise ValueError(f"{sorted(rest)[0]} belongs to no tensor")
    return state


def _scaled(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes times a scale for each row, or for all."""
    scale = scale.float()
    return q.float() * (scale.view(-1, *[1] * (q.ndim - 1)) if scale.ndim else scale)


def _low_rank(name: str, take: Callable[[str], torch.Tensor], *, grouped: bool) -> torch.Tensor:
    """A B, the correction of LQER: scales by row, or one for A and one for each group of B's."""
    if not grouped:
        a, b = (_scaled(take(f"{name}.lq{m}"), take(f"{name}.lq{m}s")) for m in "AB")
        return a @ b
    a = take(f"{name}.lqA_a").float() * take(f"{name}.lqAs_a").float().item()
    codes, scales = take(f"{name}.lqB_a"), take(f"{name}.lqBs_a")
    b = _scaled(codes.reshape(scales.numel(), -1), scales.flatten()).reshape(codes.shape)
    return a @ b


def _through(
    decode: Callable[[bytes], tuple[bytes, bool]], data: bytes, path: Path, kind: str
) -> bytes:
    """`decode` gives (at most MAX_INFLATED_BYTES + 1 bytes, whether the stream ended)."""
    try:
        out, ended = decode(data)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, brotli.error, EOFError) as error:
        raise UsageError(
            f"{path} cannot be decompressed by {kind}: {error}", "the file is damaged"
        ) from error
    if len(out) > MAX_INFLATED_BYTES:
        raise UsageError(f"{path} decompresses to more than {MAX_INFLATED_BYTES} bytes")
    if not ended:
        raise UsageError(f"{path} is truncated: its compressed data does not end")
    return out


def _zlib(data: bytes) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj()
    return inflater.decompress(data, MAX_INFLATED_BYTES + 1), inflater.eof


def _lzma(data: bytes) -> tuple[bytes, bool]:
    inflater = lzma.LZMADecompressor()
    return inflater.decompress(data, MAX_INFLATED_BYTES + 1), inflater.eof


def _zstd(data: bytes) -> tuple[bytes, bool]:
    # Fed in pieces: a few bytes may stand for megabytes, and a frame may state any size.
    inflater, out, at = zstandard.ZstdDecompressor().decompressobj(), bytearray(), 0
    while at < len(data) and len(out) <= MAX_INFLATED_BYTES and not inflater.eof:
        out += inflater.decompress(data[at : at + (1 << 12)])
        at += 1 << 12
    return bytes(out), inflater.eof


def _brotli(data: bytes) -> tuple[bytes, bool]:
    inflater, most = brotli.Decompressor(), MAX_INFLATED_BYTES + 1
    out = bytearray(inflater.process(data, output_buffer_limit=most))
    while not inflater.is_finished() and len(out) < most:
        more = inflater.process(b"", output_buffer_limit=most - len(out))
        if not more:
            break
        out += more
    return bytes(out), inflater.is_finished()


def _unshuffled(data: bytes, path: Path) -> bytes:
    """Bytes that were dealt into piles before they were compressed, in their own order."""
    if not data.startswith(_SHUFFLED):
        return data
    if len(data) < 5 or data[4] == 0:
        raise UsageError(f"{path} holds shuffled bytes without a stride", "the file is damaged")
    stride, dealt = data[4], data[5:]
    out, at = bytearray(len(dealt)), 0
    for pile in range(stride):
        count = len(range(pile, len(dealt), stride))
        out[pile::stride] = dealt[at : at + count]
        at += count
    return bytes(out)
