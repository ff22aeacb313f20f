"""Code matrices -> payload -> code matrices; what the payload costs; what damage does to it."""

from dataclasses import replace

import brotli
import numpy as np
import pytest
import torch
from artifact_sample import without_barred
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.format.rans import fast
from golfpack.packer.format.rans import lanes as rans
from golfpack.packer.format.rans.codes import Decoder, decode_codes, encode_codes
from golfpack.packer.format.rans.context_model import CodeMatrix, Header, ScaleModel, shifted
from golfpack.packer.format.rans.fit import fit_scales
from golfpack.packer.format.rans.tables import LEVELS, symbol_costs, tables
from golfpack.packer.format.trellis import FINE

DECODERS: list[Decoder] = [rans.decode_run, fast.decode_run]
Matrix = tuple[np.ndarray, CodeMatrix]


def _blind(codes: np.ndarray) -> CodeMatrix:
    """A matrix of which no step is known."""
    rows, cols = codes.shape
    return CodeMatrix((rows, cols), np.zeros(rows, int), np.zeros(cols, int))


def _separable(rows: int, cols: int, scale: float = 3.0, *, seed: int = 0) -> Matrix:
    """Gaussian codes as quantization with row and column steps makes them."""
    rng = np.random.default_rng(seed)
    row_log = np.rint(32 * rng.normal(0, 0.7, rows)).astype(np.int32)
    col_log = np.rint(16 * rng.normal(0, 0.7, cols)).astype(np.int32)
    wobble = rng.normal(0, 0.1, (rows, 1)) + rng.normal(0, 0.1, (1, cols))
    sigma = scale * 2.0 ** (wobble - row_log[:, None] / 32 - col_log / 16)
    codes = np.rint(sigma * rng.normal(size=(rows, cols))).astype(np.int32)
    return codes, CodeMatrix((rows, cols), row_log, col_log)


def _assert_round_trip(
    codes: list[np.ndarray],
    matrices: list[CodeMatrix],
    scales: list[ScaleModel | None] | None = None,
) -> bytes:
    payload = encode_codes(codes, matrices, scales=scales)
    for decoder in DECODERS:
        decoded = decode_codes(payload, matrices, decoder)
        for got, expected in zip(decoded, codes, strict=True):
            assert got.dtype == np.int32
            assert np.array_equal(got, expected)
    return payload


SHAPES = st.tuples(st.integers(0, 24), st.integers(0, 24))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    shapes=st.lists(SHAPES, max_size=4),
    seed=st.integers(0, 2**32),
    tail=st.sampled_from([0.1, 1.0, 8.0, 25.0]),
    log_range=st.sampled_from([0, 50, 2**31 - 1]),
    fine_from=st.sampled_from([FINE, LEVELS]),
)
def test_round_trip(shapes: list, seed: int, tail: float, log_range: int, fine_from: int) -> None:
    rng = np.random.default_rng(seed)
    codes, matrices, scales = [], [], []
    for rows, cols in shapes:
        wild = np.clip(rng.standard_t(1, (rows, cols)) * 2.0**tail, -(2.0**31), 2.0**31 - 1)
        logs = [rng.integers(-log_range, log_range + 1, side) for side in (rows, cols)]
        own, model = wild.astype(np.int32), None
        matrix = CodeMatrix((rows, cols), *logs)
        if rng.integers(2):
            model = fit_scales(own, matrix) if own.size else None
            matrix = CodeMatrix((rows, cols), *logs, True, fine_from)
            if model is not None:
                own = without_barred(own, matrix, model)
        codes.append(own)
        matrices.append(matrix)
        scales.append(model)
    _assert_round_trip(codes, matrices, scales)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (37, 53)])
@pytest.mark.parametrize("value", [0, 1, -(2**31), 2**31 - 1])
def test_constant_matrices(shape: tuple[int, int], value: int) -> None:
    codes = np.full(shape, value, np.int32)
    _assert_round_trip([codes], [_blind(codes)])


def test_no_codes_cost_no_bytes() -> None:
    empty = [np.zeros(shape, np.int32) for shape in ((0, 5), (5, 0), (0, 0))]
    assert _assert_round_trip(empty, [_blind(e) for e in empty]) == b""
    assert encode_codes([], []) == b""


def test_zeros_are_nearly_free() -> None:
    zeros = np.zeros((512, 512), np.int32)
    assert len(_assert_round_trip([zeros], [_blind(zeros)])) < 200


def test_same_codes_same_bytes() -> None:
    codes, matrix = _separable(200, 100)
    transposed = np.asfortranarray(codes)
    assert encode_codes([codes], [matrix]) == encode_codes([transposed], [matrix])


GOLDEN_CODES = np.array([[0, -1, 2, 2**30], [5, 0, -7, 1], [0, 0, 1, -2]], np.int32)
GOLDEN_PAYLOADS = {
    # Up to version 3 side vectors stood for themselves.
    3: "000b0bc0f0001000ff00170ce0ff3f030203ddff3fffafe6413aa40800b4570220fb5f831ce4019637ffcf611f"
    "1e70aed45ce2e6890a5056d7",
    4: "80090bc01000e0ff3f040503ddff3f20d2172f3e3100001437a8fa9cb0e10f4477014877d7d7caff6f722975c0"
    "c9f18618115627908deb",
}


@pytest.mark.parametrize("version", GOLDEN_PAYLOADS)
def test_golden_bytes(version) -> None:
    """A change here breaks every artifact: it needs a new version of the format, not a new constant."""
    codes, logs = GOLDEN_CODES, (np.array([3, -20, 11]), np.array([-2, 9, 0, -90]))
    matrices = [CodeMatrix((3, 4), *logs), _blind(codes.T)]
    payload = bytes.fromhex(GOLDEN_PAYLOADS[version])
    for decoder in DECODERS:
        first, second = decode_codes(payload, matrices, decoder)
        assert np.array_equal(first, codes)
        assert np.array_equal(second, codes.T)
    assert version < 4 or encode_codes([codes, codes.T], matrices) == payload


def test_size_is_near_the_entropy_of_the_source() -> None:
    rng = np.random.default_rng(3)
    sigma = 4 * 2.0 ** (rng.normal(0, 1, (600, 1)) + rng.normal(0, 1, (1, 600)))
    codes = np.rint(sigma * rng.normal(size=sigma.shape)).astype(np.int32)
    # h(sigma) of a Gaussian in unit bins: exact enough at this rate, an underestimate at a low one.
    bits = np.maximum(np.log2(sigma * np.sqrt(2 * np.pi * np.e)), 0).sum()
    assert len(_assert_round_trip([codes], [_blind(codes)])) < 1.02 * bits / 8


@pytest.mark.parametrize(("scale", "gain"), [(1.0, 0.05), (3.0, 0.05), (8.0, 0.04)])
def test_smaller_than_brotli_in_either_order(scale: float, gain: float) -> None:
    codes, matrix = _separable(512, 256, scale)
    narrow = np.clip(codes, -128, 127).astype(np.int8)
    best = min(len(brotli.compress(x.tobytes(), quality=11)) for x in (narrow, narrow.T))
    assert len(encode_codes([codes], [matrix])) < (1 - gain) * best


def test_an_outlier_costs_only_itself() -> None:
    codes, matrix = _separable(64, 64)
    before = len(encode_codes([codes], [matrix]))
    codes[10, 20] = 10**9
    assert len(_assert_round_trip([codes], [matrix])) <= before + 12


def test_known_steps_save_class_bytes() -> None:
    codes, matrix = _separable(256, 256)
    told, blind = (len(encode_codes([codes], [m])) for m in (matrix, _blind(codes)))
    assert told + 100 < blind


def test_rows_that_moved_together_are_told_once() -> None:
    codes, matrix = _separable(300, 128, 2.0, seed=1)
    drift = np.random.default_rng(2).normal(0, 6, 128)
    codes[:100] += np.rint(drift * np.linspace(0.5, 2, 100)[:, None]).astype(np.int32)
    alone = len(encode_codes([codes[:100]], [_blind(codes[:100])]))
    unmoved = len(encode_codes([codes[100:200]], [_blind(codes[100:200])]))
    _assert_round_trip([codes], [matrix])
    assert alone < 1.1 * unmoved


def test_a_mean_that_would_leave_int32_is_refused() -> None:
    side = np.array([1 << 20, 0], np.int32)
    header = Header(0, False, False, (0, 0, 0, 0))
    model = ScaleModel(header, side, side, side, side)
    top = np.full((2, 2), 2**31 - 1, np.int32)
    assert shifted(top, model, 1) is None
    back = shifted(np.zeros((2, 2), np.int32), replace(model, col_mean=side >> 12), 1)
    assert back is not None
    assert back.tolist() == [[1 << 23, 0], [0, 0]]


def test_decoding_ignores_the_float_environment() -> None:
    codes, matrix = _separable(60, 50)
    payload = encode_codes([codes], [matrix])
    flushed = torch.set_flush_denormal(True)
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        tables.cache_clear()
        symbol_costs.cache_clear()
        with np.errstate(all="raise"):
            for decoder in DECODERS:
                assert np.array_equal(decode_codes(payload, [matrix], decoder)[0], codes)
            assert encode_codes([codes], [matrix]) == payload
    finally:
        torch.set_default_dtype(dtype)
        if flushed:
            torch.set_flush_denormal(False)


def test_wrong_input_is_a_usage_error() -> None:
    codes = np.zeros((3, 4), np.int32)
    with pytest.raises(UsageError, match="shape"):
        encode_codes([codes.T], [_blind(codes)])
    with pytest.raises(UsageError, match="int32"):
        encode_codes([codes.astype(np.int16)], [_blind(codes)])  # pyright: ignore
    with pytest.raises(UsageError, match="logs"):
        CodeMatrix((3, 4), np.zeros(4, int), np.zeros(4, int))


def test_scales_beyond_all_use_are_refused() -> None:
    codes = np.zeros((2, 2), np.int32)
    matrix = replace(_blind(codes), trellis=True, fine_from=FINE)
    sides = [np.zeros(2, np.int32)] * 4
    for offset, fits in ((4095, True), (-4096, True), (4096, False), (-4097, False)):
        model = ScaleModel(Header(offset, False, False), *sides)
        if fits:
            payload = encode_codes([codes + (offset > 0)], [matrix], scales=[model])
            assert decode_codes(payload, [matrix])[0][0, 0] == (offset > 0)
            continue
        with pytest.raises(UsageError, match="octaves"):
            encode_codes([codes], [matrix], scales=[model])


@pytest.mark.parametrize("decoder", DECODERS)
def test_any_truncation_is_corrupt(decoder: Decoder) -> None:
    codes, matrix = _separable(20, 15)
    payload = encode_codes([codes], [matrix])
    for keep in range(len(payload)):
        with pytest.raises(CorruptError):
            decode_codes(payload[:keep], [matrix], decoder)
    with pytest.raises(CorruptError):
        decode_codes(payload + bytes(4), [matrix], decoder)
    with pytest.raises(CorruptError):
        decode_codes(payload, [], decoder)


def test_a_bit_flip_is_corrupt_or_bends_codes_alike_in_both_decoders() -> None:
    """A flipped sign is some other matrix's payload: only the container's sha256 can tell."""
    codes, matrix = _separable(9, 6, 6.0)
    codes[3, 4] = 90000  # an escape
    payload = encode_codes([codes], [matrix])
    caught = 0
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        outcome = [_decoded_or_error(bytes(flipped), matrix, d) for d in DECODERS]
        assert outcome[0] == outcome[1]
        caught += isinstance(outcome[0], str)
    assert caught > 0.7 * 8 * len(payload)


def _decoded_or_error(payload: bytes, matrix: CodeMatrix, decoder: Decoder) -> str | bytes:
    try:
        (codes,) = decode_codes(payload, [matrix], decoder)
    except CorruptError:
        return "corrupt"
    assert (codes.shape, codes.dtype) == (matrix.shape, np.int32)
    return codes.tobytes()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(payload=st.binary(max_size=80))
def test_noise_never_crashes(payload: bytes) -> None:
    matrix = CodeMatrix((4, 3), np.array([2**31, -(2**31), 0, 5]), np.array([0, 2**30, -7]))
    outcome = [_decoded_or_error(payload, matrix, decoder) for decoder in DECODERS]
    assert outcome[0] == outcome[1]
