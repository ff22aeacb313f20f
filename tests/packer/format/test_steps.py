"""Step fields: the same float32 bits everywhere, and log steps within half a grain."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.packer.format.steps import COL_OCTAVE, ROW_OCTAVE, exp2_log, f16_steps, log_steps


def correctly_rounded(log: int, octave: int) -> np.float32:
    """2^(log / octave) by 60-digit decimals, rounded to 24 bits by integers."""
    with localcontext() as context:
        context.prec = 60
        mantissa = Fraction(Decimal(2) ** (Decimal(log % octave) / octave))  # in [1, 2)
    scaled = mantissa * 2**23
    nearest = int(scaled + Fraction(1, 2))
    return np.float32(np.ldexp(np.float64(nearest), log // octave - 23))


@pytest.mark.parametrize("octave", [ROW_OCTAVE, COL_OCTAVE])
def test_exp2_log_is_correctly_rounded(octave):
    logs = np.arange(-100 * octave, 100 * octave + 1)
    logs = logs[np.random.default_rng(0).permutation(len(logs))[:500]]
    logs = np.concatenate([logs, np.arange(-octave, octave + 1)])
    expected = np.array([correctly_rounded(int(k), octave) for k in logs])
    np.testing.assert_array_equal(exp2_log(logs, octave), expected)
    assert exp2_log(logs, octave).dtype == np.float32


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([1, 2, 4]),
)
@settings(max_examples=80, deadline=None)
def test_log_steps_are_within_half_a_grain_and_the_dither_of_rows(log2s, row_grain, col_grain):
    # 255 grains of 1/32 octave are 7.97 octaves; wider spans are the next test's.
    row = np.exp2(np.array(log2s) % 7.9)
    col = np.exp2(np.array(log2s) % 15.5)
    s = log_steps(row, col, row_grain=row_grain, col_grain=col_grain)
    assert s.col is not None
    assert s.col_log is not None
    assert np.abs(np.log2(s.row / row)).max() <= 0.5 * (row_grain + 1) / ROW_OCTAVE + 1e-6
    assert np.abs(np.log2(s.col / col)).max() <= 0.5 * col_grain / COL_OCTAVE + 1e-6
    if np.ptp(np.log2(row)) * ROW_OCTAVE > row_grain:
        assert not (s.row_log % row_grain).any()
    if np.ptp(np.log2(col)) * COL_OCTAVE > col_grain:
        assert not (s.col_log % col_grain).any()


@given(st.floats(-20, 20), st.lists(st.floats(-3, 3), min_size=16, max_size=40))
@settings(max_examples=40, deadline=None)
def test_columns_carry_what_is_between_two_grains_where_most_rows_ask_for_one_step(at, others):
    row, col = np.exp2(at + np.array([0.0] * len(others) + others)), np.exp2([0.3, -1.2])
    s = log_steps(row, col, row_grain=8, col_grain=4)
    assert s.col is not None
    found = np.log2(s.row[:, None] * s.col.astype(np.float64))
    away = np.abs(found - np.log2(row[:, None] * col))
    assert away.max() <= 0.5 * 9 / ROW_OCTAVE + (0.5 * 4 + 1) / COL_OCTAVE + 1e-6
    if len(set(np.round(np.log2(row) * ROW_OCTAVE))) > 9:  # more than a grain apart
        assert len(set(s.row_log[: len(others)])) == 1
        usual = found[: len(others)] - np.log2(row[: len(others), None] * col)
        assert np.abs(usual.mean()) <= (0.5 * 4 + 0.5) / COL_OCTAVE + 1e-6


@pytest.mark.parametrize("grain", [1, 4])
def test_a_span_beyond_a_byte_raises_only_the_entries_below_it(grain):
    row = np.array([0.0, 1e-300, 1e-9, 0.5, 1.0])
    s = log_steps(row, None, row_grain=grain)
    assert s.row_log.max() - s.row_log.min() == 255 * grain
    assert (s.row_log[:2] == s.row_log.min()).all()
    np.testing.assert_allclose(s.row[3:], row[3:], rtol=0.02 * grain)
    assert log_steps(np.array([]), None).row.shape == (0,)


def test_float16_steps_are_never_zero_or_infinite():
    s = f16_steps(np.array([0.0, 1e-30, 1e-4, 7.0, 1e6, 1e300]))
    assert np.isfinite(s.row).all()
    assert (s.row > 0).all()
    np.testing.assert_allclose(s.row[2:4], [1e-4, 7.0], rtol=1e-3)
