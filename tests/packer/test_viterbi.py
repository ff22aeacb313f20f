"""Nearest points of codes with states, held to every sequence of codes that there is."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.packer.format.trellis import points, quantizers
from golfpack.packer.quantize.viterbi import nearest_points

LENGTH, LARGEST = 5, 3
EVERY = np.array(list(product(range(-LARGEST, LARGEST + 1), repeat=LENGTH)), np.int32)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.3, 0.7, 1.2]))
def test_no_sequence_of_codes_is_nearer(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.clip(spread * rng.normal(size=(3, LENGTH)), -2, 2).astype(np.float32)
    fine = rng.integers(0, 2, x.shape).astype(bool)
    found, order = nearest_points(x, fine), np.arange(LENGTH)
    for row, of_row, own in zip(x, fine, found, strict=True):
        spread_fine = np.broadcast_to(of_row, EVERY.shape)
        stand_for = points(EVERY, order, spread_fine)
        # Q1 has no zero where codes are fine.
        held = ~((quantizers(EVERY, order, spread_fine) == 1) & spread_fine & (EVERY == 0)).any(1)
        errors = np.square(stand_for - row, dtype=np.float64).sum(1)
        assert np.square(own - row, dtype=np.float64).sum() == pytest.approx(errors[held].min())
        assert (stand_for[held] == own).all(1).any()  # a decoder can say it


def test_no_weights_at_all() -> None:
    for shape in ((0, 3), (3, 0)):
        assert nearest_points(np.zeros(shape, np.float32), np.zeros(shape, bool)).shape == shape
