"""Code matrices <-> one payload. docs/format.md specifies it byte by byte.

    lanes | escape count in bytes | a header a matrix | escapes | lane states | words

The lanes first carry every matrix's side vectors, then every code. Empty matrices leave no trace.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from golfpack.errors import UsageError
from golfpack.packer.format.rans import context_model as scale
from golfpack.packer.format.rans import lanes as rans
from golfpack.packer.format.rans.context_model import CodeMatrix, Header, ScaleModel
from golfpack.packer.format.rans.lanes import Reader, corrupt
from golfpack.packer.format.rans.tables import LEVELS, TABLES, Tables, tables
from golfpack.packer.format.trellis import path_order, quantizers

_Fitted = tuple[ScaleModel, NDArray[np.int32], NDArray[np.uint8]]
Decoder = Callable[[Reader, NDArray[np.uint8], Tables, int], NDArray[np.int32]]

_HEADER_BYTES = 4
_STATE_BYTES = 8
_MAX_LANES_LOG2 = 12
_CODES_PER_LANE = 1 << 15  # a lane costs about 6 bytes: 0.05% at 3 bits a code
_VARINT_BYTES = 5
# The cheapest code costs log2(4096 / 4095) bits: no payload of B bytes holds more than this times B.
_CODES_PER_BYTE = 8 * 2840


def encode_codes(
    codes: Sequence[NDArray[np.int32]],
    matrices: Sequence[CodeMatrix],
    threads: int = 1,
    scales: Sequence[ScaleModel | None] | None = None,
) -> bytes:
    """Code matrices of integers, each with the shape its CodeMatrix tells.

    The same input gives the same bytes, on any number of threads.

    Args:
        codes: of every matrix.
        matrices: what the decoder will know.
        threads: at most so many.
        scales: of codes with states, the scale models that they were chosen under; None of others, to
            which one is fitted.

    Raises:
        UsageError: a shape differs from its CodeMatrix's, or a code leaves int32.
    """
    from golfpack.base.parallel import map_ordered
    from golfpack.packer.format.rans import fast, fit

    full = _with_codes(matrices)
    if not full:
        return b""
    arrays = [_checked(codes[n], matrices[n]) for n in full]
    flat = np.empty(sum(a.size for a in arrays), np.int32)
    levels, models, end = np.empty(flat.size, np.uint8), list[ScaleModel](), 0

    def work(item: tuple[NDArray[np.int32], int]) -> _Fitted:
        array, n = item
        model = None if scales is None else scales[n]
        assert (model is None) != matrices[n].trellis
        model = model or fit.fit(array, matrices[n])
        return model, *_coded(array, matrices[n], model)

    for model, of_codes, of_levels in map_ordered(work, zip(arrays, full, strict=True), threads):
        begin, end = end, end + of_codes.size
        flat[begin:end], levels[begin:end] = of_codes, of_levels
        models.append(model)
    sides = np.concatenate([side for model in models for side in model.sides])
    runs = [
        (sides, _side_levels([model.header for model in models], full, matrices)),
        (flat, levels),
    ]
    lanes_log2 = _lanes_log2(len(flat))
    states, words, escapes = fast.encode_runs(runs, 1 << lanes_log2, tables(_fine_from(matrices)))
    packed = _pack_varints(escapes)
    return b"".join(
        [
            bytes([lanes_log2]),
            _pack_varints(np.array([len(packed)])),
            *(_pack_header(model.header) for model in models),
            packed,
            states.astype("<u8").tobytes(),
            words.astype("<u4").tobytes(),
        ]
    )


def decode_codes(
    payload: bytes, matrices: Sequence[CodeMatrix], decoder: Decoder | None = None
) -> list[NDArray[np.int32]]:
    """Codes from `encode_codes`'s payload, in the shapes of the same matrices.

    Args:
        payload: what `encode_codes` returned.
        matrices: equal to those it was given.
        decoder: `rans.decode_run` or `fast.decode_run`, which agree; default: fast where numba is.

    Raises:
        CorruptError: no encoder wrote this payload for these matrices.
    """
    return [codes for codes, _ in decode_matrices(payload, matrices, decoder)]


def decode_matrices(
    payload: bytes, matrices: Sequence[CodeMatrix], decoder: Decoder | None = None
) -> list[tuple[NDArray[np.int32], ScaleModel | None]]:
    """As `decode_codes`, each with its scale model, which says what codes with states stand for.

    None of a matrix without a row or a column.
    """
    full = _with_codes(matrices)
    count = sum(matrices[n].shape[0] * matrices[n].shape[1] for n in full)
    if count > _CODES_PER_BYTE * len(payload):
        raise corrupt(f"{len(payload):,} bytes cannot hold {count:,} codes")
    decoded: list[tuple[NDArray[np.int32], ScaleModel | None]] = [
        (np.zeros(matrix.shape, np.int32), None) for matrix in matrices
    ]
    if not full:
        if payload:
            raise corrupt("it is not empty, but there are no codes")
        return decoded
    decode = decoder or default_decoder()
    headers, reader = _parse(payload, len(full))
    values = decode(reader, _side_levels(headers, full, matrices), tables(), 0)
    sides = iter(_pieces(values, [size for n in full for size in matrices[n].shape * 2]))
    models = [ScaleModel(h, next(sides), next(sides), next(sides), next(sides)) for h in headers]
    reader.lane = 0
    for n, model in zip(full, models, strict=True):
        decoded[n] = _decoded(decode, reader, matrices[n], model), model
    reader.check_finished()
    return decoded


def _coded(
    codes: NDArray[np.int32], matrix: CodeMatrix, model: ScaleModel
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """What is coded of a matrix, and at which levels, in the order of coding."""
    moved, levels = _moved(codes, model, -1), scale.code_levels(matrix, model)
    if not matrix.trellis:
        return moved.reshape(-1), levels
    order, fine = path_order(matrix.col_log), scale.fine_codes(matrix, model)
    second = quantizers(codes, order, fine)
    assert not np.any((codes == 0) & fine & (second == 1)), "Q1 has no zero there"
    second = second[:, order].T.reshape(-1) & (levels < TABLES)
    return codes[:, order].T.reshape(-1), levels + np.uint8(LEVELS) * second


def _decoded(
    decode: Decoder, reader: Reader, matrix: CodeMatrix, model: ScaleModel
) -> NDArray[np.int32]:
    rows, cols = matrix.shape
    levels = scale.code_levels(matrix, model)
    if not matrix.trellis:
        return _moved(decode(reader, levels, tables(), 0).reshape(rows, cols), model, 1)
    if model.row_mean.any():
        raise corrupt("codes with states have means")
    codes = np.empty((rows, cols), np.int32)
    order = path_order(matrix.col_log)
    codes[:, order] = decode(reader, levels, tables(matrix.fine_from), rows).reshape(cols, rows).T
    return codes


def default_decoder() -> Decoder:
    """The compiled decoder where numba is installed, else its numpy twin.

    That is 4 times slower with 1,024 lanes, and more with fewer.
    """
    if find_spec("numba") is None:
        return rans.decode_run
    from golfpack.packer.format.rans import fast

    return fast.decode_run


def _fine_from(matrices: Sequence[CodeMatrix]) -> int:
    """Of all codes with states in one payload; no other codes mind."""
    found = {m.fine_from for m in matrices if m.trellis}
    assert len(found) <= 1
    return found.pop() if found else LEVELS


def _side_levels(
    headers: Sequence[Header], full: Sequence[int], matrices: Sequence[CodeMatrix]
) -> NDArray[np.uint8]:
    parts = zip(headers, full, strict=True)
    return np.concatenate([scale.side_levels(h, matrices[n].shape) for h, n in parts])


def _moved(codes: NDArray[np.int32], model: ScaleModel, sign: int) -> NDArray[np.int32]:
    moved = scale.shifted(codes, model, sign)
    if moved is None:
        raise corrupt("a code leaves the 32-bit range")
    return moved


def _pieces(values: NDArray[np.int32], sizes: Sequence[int]) -> list[NDArray[np.int32]]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _with_codes(matrices: Sequence[CodeMatrix]) -> list[int]:
    return [n for n, matrix in enumerate(matrices) if 0 not in matrix.shape]


def _checked(codes: NDArray[np.int32], matrix: CodeMatrix) -> NDArray[np.int32]:
    if codes.shape != matrix.shape:
        raise UsageError(
            f"codes of shape {codes.shape} for a matrix of shape {matrix.shape}",
            "pass the codes and the matrices in one order",
        )
    if codes.dtype != np.int32:
        raise UsageError(f"codes are {codes.dtype}, not int32", "round and convert them first")
    return np.ascontiguousarray(codes)


def _lanes_log2(count: int) -> int:
    return min(max(count // _CODES_PER_LANE, 1).bit_length() - 1, _MAX_LANES_LOG2)


def _pack_header(header: Header) -> bytes:
    offset = header.offset & ((1 << scale.OFFSET_BITS) - 1)
    flags = header.use_row << 14 | header.use_col << 15
    spreads = sum(spread << 16 + 4 * n for n, spread in enumerate(header.spreads))
    return (offset | flags | spreads).to_bytes(_HEADER_BYTES, "little")


def _unpack_header(packed: bytes) -> Header:
    bits = int.from_bytes(packed, "little")
    offset = bits & ((1 << scale.OFFSET_BITS) - 1)
    if offset >> (scale.OFFSET_BITS - 1):
        offset -= 1 << scale.OFFSET_BITS
    spreads = bits >> 16 & 15, bits >> 20 & 15, bits >> 24 & 15, bits >> 28
    return Header(offset, bool(bits >> 14 & 1), bool(bits >> 15 & 1), spreads)


def _parse(payload: bytes, count: int) -> tuple[list[Header], Reader]:
    """Headers of `count` matrices, and the reader of what follows."""
    if len(payload) < 2:
        raise corrupt("it ends too early")
    lanes_log2 = payload[0]
    if lanes_log2 > _MAX_LANES_LOG2:
        raise corrupt(f"2^{lanes_log2} lanes")
    width = next((n for n, b in enumerate(payload[1 : 1 + _VARINT_BYTES], 1) if b < 128), None)
    if width is None:
        raise corrupt("the escape count does not end")
    escape_bytes = int(_unpack_varints(payload[1 : 1 + width])[0])
    at = 1 + width
    ends = np.cumsum([at, _HEADER_BYTES * count, escape_bytes, _STATE_BYTES << lanes_log2])
    if ends[-1] > len(payload) or (len(payload) - ends[-1]) % 4:
        raise corrupt("its length fits no number of words")
    headers = [
        _unpack_header(payload[n : n + _HEADER_BYTES])
        for n in range(at, int(ends[1]), _HEADER_BYTES)
    ]
    escapes = _unpack_varints(payload[ends[1] : ends[2]])
    states = np.frombuffer(payload[ends[2] : ends[3]], "<u8").astype(np.uint64)
    if np.any(states < rans.STATE_START):
        raise corrupt("a lane state is too small")
    words = np.frombuffer(payload[ends[3] :], "<u4").astype(np.uint32)
    return headers, Reader(states, words, escapes)


def _pack_varints(values: NDArray[np.int64]) -> bytes:
    """LEB128: seven bits a byte, low first, the top bit set on all but a number's last."""
    digits = values[:, None] >> 7 * np.arange(_VARINT_BYTES)
    packed = digits & 127 | (digits > 127) << 7
    present = (digits > 0) | (np.arange(_VARINT_BYTES) == 0)
    return packed[present].astype(np.uint8).tobytes()


def _unpack_varints(packed: bytes) -> NDArray[np.int64]:
    """The numbers of `_pack_varints`."""
    data = np.frombuffer(packed, np.uint8)
    if len(data) == 0:
        return np.zeros(0, np.int64)
    last = np.flatnonzero(data < 128)
    first = np.concatenate([[0], last[:-1] + 1])
    if len(last) == 0 or last[-1] != len(data) - 1 or np.any(last - first >= _VARINT_BYTES):
        raise corrupt("an escape does not end")
    place = np.arange(len(data)) - np.repeat(first, last - first + 1)
    return np.add.reduceat((data & 127).astype(np.int64) << (7 * place), first)
