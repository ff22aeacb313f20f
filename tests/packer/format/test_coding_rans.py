"""The compiled coder and the numpy decoder agree, on everything int32 and every level."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError
from golfpack.packer.format.rans import fast
from golfpack.packer.format.rans import lanes as rans
from golfpack.packer.format.rans.lanes import Reader
from golfpack.packer.format.rans.tables import LEVELS, TABLES, symbol_costs, tables
from golfpack.packer.format.trellis import FINE, quantizers

DECODERS = [rans.decode_run, fast.decode_run]
Run = tuple[np.ndarray, np.ndarray]
WITH_STATES = LEVELS + TABLES  # levels that an encoder may be given


def _run(seed: int, size: int, magnitude: int) -> Run:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-magnitude, magnitude, size, dtype=np.int32)
    return codes, rng.integers(0, WITH_STATES, size, dtype=np.uint8)


def _reader(runs: list[Run], lanes: int) -> Reader:
    return Reader(*fast.encode_runs(runs, lanes, tables()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    lanes_log2=st.integers(0, 6),
    magnitude=st.sampled_from([1, 3, 40, 5000, 2**31 - 1]),
)
def test_round_trip(seed: int, sizes: list[int], lanes_log2: int, magnitude: int) -> None:
    runs = [_run(seed + n, size, magnitude) for n, size in enumerate(sizes)]
    for decode in DECODERS:
        reader = _reader(runs, 1 << lanes_log2)
        for codes, levels in runs:
            reader.lane = 0
            assert np.array_equal(decode(reader, levels, tables()), codes)
        reader.check_finished()


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("level", [0, 24, 55, 56, 100, LEVELS - 1])
def test_extremes(decode, level: int) -> None:
    codes = np.array([-(2**31), 2**31 - 1, 0, -1, 1, 2**30, -(2**30) - 1], np.int32)
    levels = np.full(len(codes), level, np.uint8)
    reader = _reader([(codes, levels)], 2)
    assert np.array_equal(decode(reader, levels, tables()), codes)
    reader.check_finished()


def test_cost_is_the_cross_entropy_of_the_tables() -> None:
    rng = np.random.default_rng(5)
    levels = np.repeat(np.r_[0:56, LEVELS : LEVELS + TABLES].astype(np.uint8), 4000)
    sigma = 2.0 ** ((np.where(levels < LEVELS, levels, levels - LEVELS) - 24.0) / 8)
    value = rng.normal(size=len(levels)) * sigma
    second = np.where(np.abs(value) < 0.25, 0, np.floor(np.abs(value)) + 1) * np.sign(value)
    codes = np.where(levels < LEVELS, np.rint(value), second).astype(np.int32)
    reader = _reader([(codes, levels)], 1)
    of = tables().table[levels]
    symbols = np.minimum(np.abs(codes), tables().escape[of])
    ideal_bits = symbol_costs()[of, symbols].sum() / 256
    assert 32 * len(reader.words) <= 1.0005 * ideal_bits + 64


@pytest.mark.parametrize("decode", DECODERS)
def test_a_stream_that_ends_early_is_corrupt(decode) -> None:
    codes, levels = _run(1, 500, 40)
    whole = _reader([(codes, levels)], 4)
    cut = Reader(whole.states.copy(), whole.words[:-1], whole.escapes)
    with pytest.raises(CorruptError, match="too early"):
        decode(cut, levels, tables())
    no_escape = Reader(whole.states.copy(), whole.words, whole.escapes[:-1])
    with pytest.raises(CorruptError, match="escape"):
        decode(no_escape, levels, tables())


@pytest.mark.parametrize("decode", DECODERS)
def test_leftovers_and_a_wrong_end_state_are_corrupt(decode) -> None:
    codes, levels = _run(2, 500, 40)
    whole = _reader([(codes, levels)], 4)
    longer = Reader(whole.states.copy(), np.append(whole.words, np.uint32(7)), whole.escapes)
    decode(longer, levels, tables())
    with pytest.raises(CorruptError, match="start state"):
        longer.check_finished()
    bent = Reader(np.array([rans.STATE_START + 1], np.uint64), whole.words[:0], whole.escapes[:0])
    with pytest.raises(CorruptError, match="start state"):
        bent.check_finished()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 12)),
    lanes_log2=st.integers(0, 6),
    before=st.integers(0, 70),
    fine_from=st.sampled_from([LEVELS, FINE, 0]),
)
def test_states_pick_the_quantizer_of_each_row(seed, shape, lanes_log2, before, fine_from) -> None:
    rows, cols = shape
    rng = np.random.default_rng(seed)
    codes = rng.integers(-30, 30, shape, dtype=np.int32)
    codes += codes == 0  # which a fine code of Q1 cannot be
    levels = rng.integers(0, LEVELS, rows * cols, dtype=np.uint8)
    fine = fine_from <= levels.reshape(cols, rows).T
    second = quantizers(codes, np.arange(cols), fine).T.reshape(-1)
    told = np.where((second == 1) & (levels < TABLES), levels + LEVELS, levels).astype(np.uint8)
    first = _run(seed, before, 3)
    first = first[0], first[1] % LEVELS
    run = np.concatenate([first[0], codes.T.reshape(-1)]), np.concatenate([first[1], told])
    of = tables(fine_from)
    for decode in DECODERS:
        reader = Reader(*fast.encode_runs([run], 1 << lanes_log2, of))
        assert np.array_equal(decode(reader, first[1], of), first[0])
        found = decode(reader, levels, of, rows)
        assert np.array_equal(found.reshape(cols, rows).T, codes)
        reader.check_finished()


@pytest.mark.parametrize("decode", DECODERS)
def test_a_code_beyond_int32_is_corrupt(decode) -> None:
    codes = np.array([2**31 - 1], np.int32)
    levels = np.array([LEVELS - 1], np.uint8)
    reader = _reader([(codes, levels)], 1)
    reader.escapes += 1
    with pytest.raises(CorruptError, match="32-bit"):
        decode(reader, levels, tables())
