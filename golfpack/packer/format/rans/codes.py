"""Code matrices <-> one payload. docs/format.md specifies it byte by byte.

A payload has a header a matrix. The lanes first carry every matrix's side vectors, then every code.
Empty matrices leave no trace.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golfpack.errors import UsageError
from golfpack.packer.format.rans import context_model as scale
from golfpack.packer.format.rans.context_model import CodeMatrix, Header, ScaleModel
from golfpack.packer.format.rans.lanes import Reader, corrupt
from golfpack.packer.format.rans.payload import (
    VECTORS,
    Decoder,
    check_claim,
    default_decoder,
    encode_payload,
    parse_payload,
)
from golfpack.packer.format.rans.tables import LEVELS, TABLES, tables
from golfpack.packer.format.rans.vectors import CLASS_HEADS, Item, read_vectors
from golfpack.packer.format.trellis import path_order, quantizers

_Fitted = tuple[ScaleModel, NDArray[np.int32], NDArray[np.uint8]]

_HEADER_BYTES = 2
_MEANS = 1 << scale.OFFSET_BITS  # a header's bit: there are means
_USE_ROW, _USE_COL = 1 << 14, 1 << 15


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
        UsageError: a shape differs from its CodeMatrix's, a code leaves int32, or a scale model's offset
            its 13 bits.
    """
    from golfpack.base.parallel import map_ordered
    from golfpack.packer.format.rans import fit
    from golfpack.packer.format.rans.fit_vectors import Told, vector_runs

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
    plan: list[Told] = []
    for model, n in zip(models, full, strict=True):
        plan += [
            *scale.known_sides(matrices[n]),
            *enumerate(model.sides[: 4 if _has_means(model) else 2]),
        ]
    return encode_payload(
        [*vector_runs(plan, CLASS_HEADS), (flat, levels)],
        tables(_fine_from(matrices)),
        b"".join(map(_pack_header, models)),
        VECTORS,
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
    check_claim(payload, count)
    decoded: list[tuple[NDArray[np.int32], ScaleModel | None]] = [
        (np.zeros(matrix.shape, np.int32), None) for matrix in matrices
    ]
    if not full:
        if payload:
            raise corrupt("it is not empty, but there are no codes")
        return decoded
    decode = decoder or default_decoder()
    known = [matrices[n] for n in full]
    models, reader = SIDES[payload[:1] >= bytes([VECTORS])](payload, known, decode)
    reader.lane = 0
    for n, model in zip(full, models, strict=True):
        decoded[n] = _decoded(decode, reader, matrices[n], model), model
    reader.check_finished()
    return decoded


def _told_sides(
    payload: bytes, matrices: Sequence[CodeMatrix], decode: Decoder
) -> tuple[list[ScaleModel], Reader]:
    """Scale models whose side vectors are told from each other and from the steps: since version 4.

    Raises:
        CorruptError: no encoder wrote such a payload.
    """
    packed, reader = parse_payload(payload, _HEADER_BYTES * len(matrices), VECTORS)
    headers = np.frombuffer(packed, "<u2").tolist()
    plan: list[Item] = []
    for matrix, header in zip(matrices, headers, strict=True):
        lengths = matrix.shape * (2 if header & _MEANS else 1)
        plan += [*scale.known_sides(matrix), *enumerate(lengths)]
    found = iter(read_vectors(reader, decode, plan, CLASS_HEADS))
    models: list[ScaleModel] = []
    for matrix, header in zip(matrices, headers, strict=True):
        offset = (header & _MEANS - 1) - (header & _MEANS >> 1) * 2
        own = Header(offset, bool(header & _USE_ROW), bool(header & _USE_COL))
        sides = [next(found) for _ in range(4 if header & _MEANS else 2)]
        sides += [np.zeros(side, np.int32) for side in matrix.shape * 2][len(sides) :]
        models.append(ScaleModel(own, *sides))
    return models, reader


def _spread_sides(
    payload: bytes, matrices: Sequence[CodeMatrix], decode: Decoder
) -> tuple[list[ScaleModel], Reader]:
    """Scale models whose side vectors stand for themselves: up to version 3.

    Raises:
        CorruptError: no encoder wrote such a payload.
    """
    packed, reader = parse_payload(payload, _OLD_HEADER_BYTES * len(matrices))
    headers = [
        _old_header(packed[n : n + _OLD_HEADER_BYTES])
        for n in range(0, len(packed), _OLD_HEADER_BYTES)
    ]
    parts = zip(headers, matrices, strict=True)
    levels = np.concatenate([scale.side_levels(h, m.shape) for h, m in parts])
    values = decode(reader, levels, tables(), 0)
    sizes = np.cumsum([size for m in matrices for size in m.shape * 2])
    sides = iter(np.split(values, sizes[:-1]))
    return [ScaleModel(h, *(next(sides) for _ in range(4))) for h in headers], reader


# Whether `payload.VECTORS` is set -> what reads the scale models. A table, so that a stand-alone decoder
# can leave out the one that it does not need.
SIDES = {False: _spread_sides, True: _told_sides}


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


def _fine_from(matrices: Sequence[CodeMatrix]) -> int:
    """Of all codes with states in one payload; no other codes mind."""
    found = {m.fine_from for m in matrices if m.trellis}
    if len(found) > 1:
        raise corrupt("codes with states are fine in one matrix and not in another")
    return found.pop() if found else LEVELS


def _moved(codes: NDArray[np.int32], model: ScaleModel, sign: int) -> NDArray[np.int32]:
    moved = scale.shifted(codes, model, sign)
    if moved is None:
        raise corrupt("a code leaves the 32-bit range")
    return moved


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


def _has_means(model: ScaleModel) -> bool:
    return bool(model.row_mean.any())


def _pack_header(model: ScaleModel) -> bytes:
    header, limit = model.header, 1 << scale.OFFSET_BITS - 1
    if not -limit <= header.offset < limit:
        raise UsageError(
            f"a scale model is {header.offset} levels away, which is {header.offset // 8} octaves",
            "a file has room for 512 octaves; look at the tensor's steps",
        )
    bits = header.offset & (1 << scale.OFFSET_BITS) - 1 | _MEANS * _has_means(model)
    bits |= _USE_ROW * header.use_row | _USE_COL * header.use_col
    return bits.to_bytes(_HEADER_BYTES, "little")


_OLD_HEADER_BYTES, _OLD_OFFSET_BITS = 4, 14


def _old_header(packed: bytes) -> Header:
    bits = int.from_bytes(packed, "little")
    offset = bits & ((1 << _OLD_OFFSET_BITS) - 1)
    if offset >> (_OLD_OFFSET_BITS - 1):
        offset -= 1 << _OLD_OFFSET_BITS
    spreads = bits >> 16 & 15, bits >> 20 & 15, bits >> 24 & 15, bits >> 28
    return Header(offset, bool(bits & _USE_ROW), bool(bits & _USE_COL), spreads)
