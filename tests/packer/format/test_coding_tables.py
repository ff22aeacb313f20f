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
from golfpack.packer.format.trellis import FINE


def _gaussian(table: int, fine_from: int) -> list[float]:
    """P(|code| = 0, 1, ...) with the standard deviation of a level, under either quantizer."""
    second, level = divmod(table, TABLES)
    sigma = 2.0 ** ((level - UNIT_LEVEL) / 8)
    ends = (
        [0.25 if level < fine_from else 0.0, *range(1, MAX_SYMBOLS)]
        if second
        else [m + 0.5 for m in range(MAX_SYMBOLS)]
    )
    below = [math.erf(end / sigma / math.sqrt(2)) for end in ends]
    return [b - a for a, b in zip([0.0, *below], below, strict=False)]


@pytest.mark.parametrize("fine_from", [LEVELS, FINE])
@pytest.mark.parametrize("level", range(2 * TABLES))
def test_a_table_is_the_gaussian_of_its_level(level: int, fine_from: int) -> None:
    t = tables(fine_from)
    freq, last = t.freq[level].astype(int), int(t.escape[level])
    first = int(level - TABLES >= fine_from)  # there Q1 has no zero
    assert freq.sum() == 1 << PRECISION
    assert np.all(freq[first : last + 1] > 0)
    assert not np.any(freq[last + 1 :])
    assert not np.any(freq[:first])
    exact = np.array(_gaussian(level, fine_from)[:last]) * (1 << PRECISION)
    rtol = 0.06 if level >= TABLES else 0.03
    assert np.allclose(freq[first + 1 : last], exact[first + 1 :], rtol=rtol, atol=1)
    # takes up what all rounding left
    assert abs(freq[first] - exact[first]) <= (6 if level < TABLES else 10)
    assert freq[last] <= 4


@pytest.mark.parametrize("fine_from", [LEVELS, FINE])
def test_slots_belong_to_the_symbol_whose_range_holds_them(fine_from: int) -> None:
    t = tables(fine_from)
    slots = np.arange(1 << PRECISION)
    for freq, start, symbol in zip(t.freq, t.start, t.symbol, strict=True):
        assert np.all(start[symbol] <= slots)
        assert np.all(slots < start[symbol] + freq[symbol])


def test_high_levels_halve_their_bins_once_an_octave() -> None:
    t = tables()
    assert len(t.table) == len(t.shift) == LEVELS + TABLES
    assert t.shift[TABLES - 1] == 0
    assert t.shift[LEVELS - 1] == 16
    # Shifted or not, a level means the same standard deviation.
    meant = t.table.astype(int) + 8 * t.shift.astype(int)
    assert np.array_equal(meant[:LEVELS], np.arange(LEVELS))
    assert np.array_equal(meant[LEVELS:], np.arange(TABLES, 2 * TABLES))


def test_tables_never_change() -> None:
    first, second, fine = (
        hashlib.sha256(part.astype("<u4").tobytes()).hexdigest()
        for part in (
            tables().freq[:TABLES], tables().freq[TABLES:], tables(FINE).freq[TABLES:],
        )
    )  # fmt: skip
    assert np.array_equal(tables(FINE).freq[:TABLES], tables().freq[:TABLES])
    assert first == "3bb15410b7ec6a122d66ccb536ae8509ebc9d6b60f9b040d4490bcda2b67fd5a"
    assert second == "6ed13a42182655a5d320226bd26d113406574640cd446ea048255155b14184f8"
    assert fine == "39ced064798d6be3ba365f8eb53766ef13a7cb826a7018e183a1bef26f5a3227"
