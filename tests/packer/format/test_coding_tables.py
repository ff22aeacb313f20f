"""The tables are part of the format: right in what they model, and never different."""

import hashlib
import math

import numpy as np
import pytest

from golfpack.packer.format.rans.tables import (
    LEVELS,
    MAX_SYMBOLS,
    PRECISION,
    TABLES,
    UNIT_LEVEL,
    tables,
)


def _gaussian(level: int) -> list[float]:
    """P(|code| = 0, 1, ...) with the standard deviation of a level."""
    sigma = 2.0 ** ((level - UNIT_LEVEL) / 8)
    below = [math.erf((m + 0.5) / sigma / math.sqrt(2)) for m in range(MAX_SYMBOLS)]
    return [b - a for a, b in zip([0.0, *below], below, strict=False)]


@pytest.mark.parametrize("level", range(TABLES))
def test_a_table_is_the_gaussian_of_its_level(level: int) -> None:
    freq, last = tables().freq[level].astype(int), int(tables().escape[level])
    assert freq.sum() == 1 << PRECISION
    assert np.all(freq[: last + 1] > 0)
    assert not np.any(freq[last + 1 :])
    exact = np.array(_gaussian(level)[:last]) * (1 << PRECISION)
    assert np.allclose(freq[1:last], exact[1:], rtol=0.03, atol=1)
    assert abs(freq[0] - exact[0]) <= 6  # takes up what the others' rounding left
    assert freq[last] <= 4


def test_slots_belong_to_the_symbol_whose_range_holds_them() -> None:
    t = tables()
    slots = np.arange(1 << PRECISION)
    for freq, start, symbol in zip(t.freq, t.start, t.symbol, strict=True):
        assert np.all(start[symbol] <= slots)
        assert np.all(slots < start[symbol] + freq[symbol])


def test_high_levels_halve_their_bins_once_an_octave() -> None:
    t = tables()
    assert len(t.table) == len(t.shift) == LEVELS
    assert t.shift[TABLES - 1] == 0
    assert t.shift[-1] == 16
    # Shifted or not, a level means the same standard deviation.
    meant = t.table[:].astype(int) + 8 * t.shift.astype(int)
    assert np.array_equal(meant, np.arange(LEVELS))


def test_tables_never_change() -> None:
    t = tables()
    digest = hashlib.sha256(t.freq.astype("<u4").tobytes()).hexdigest()
    assert digest == "3bb15410b7ec6a122d66ccb536ae8509ebc9d6b60f9b040d4490bcda2b67fd5a"
