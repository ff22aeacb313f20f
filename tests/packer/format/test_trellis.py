"""Codes with states, held to their definition."""

import numpy as np
from artifact_sample import with_states
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.packer.format.rans.context_model import fine_codes
from golfpack.packer.format.rans.tables import LEVELS
from golfpack.packer.format.steps import log_steps
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.format.trellis import (
    FINE,
    NEXT,
    STATES,
    path_order,
    points,
    quantizers,
)

CHECKS = 0o13, 0o4  # of Ungerboeck's code with 8 states


def _by_the_checks(state: int, parity: int) -> int:
    """s'_j = s_(j+1) ^ h0_(j+1) z0 ^ h1_(j+1) z1 below the top bit, which is h0_v z0."""
    z0, memory = state & 1, STATES.bit_length() - 1
    found = 0
    for j in range(memory):
        of_z0, of_z1 = (h >> (j + 1) & 1 for h in CHECKS)
        above = state >> (j + 1) & 1
        found |= (above ^ of_z0 & z0 ^ of_z1 & parity) << j
    return found


def test_states_follow_from_the_parity_checks():
    for state in range(STATES):
        assert [_by_the_checks(state, p) for p in (0, 1)] == NEXT[state].tolist()
    # Every state has two that lead to it, and no two codes of one state lead to the same.
    assert np.array_equal(np.bincount(NEXT.reshape(-1)), np.full(STATES, 2))
    assert np.all(NEXT[:, 0] != NEXT[:, 1])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 9)),
)
def test_points_by_definition(seed, shape):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-5, 6, shape).astype(np.int32)
    order = path_order(rng.integers(-3, 4, shape[1]))
    fine = rng.integers(0, 2, shape).astype(bool)
    found = points(codes, order, fine)
    for r in range(shape[0]):
        state = 0
        for i in order:
            k, second = int(codes[r, i]), state & 1
            expected = k - 0.5 * np.sign(k) if second else k
            assert found[r, i] == expected
            state = _by_the_checks(state, k & 1 ^ (second and k < 0 and fine[r, i]))


def test_a_path_meets_the_largest_steps_first_and_equal_ones_as_they_stand():
    assert path_order(np.array([0, 4, -8, 4, 0])).tolist() == [1, 3, 0, 4, 2]


def test_weights_are_points_times_steps():
    rng = np.random.default_rng(0)
    codes = rng.integers(-5, 6, (7, 11)).astype(np.int32)
    steps = log_steps(np.exp(rng.normal(size=7)), np.exp(rng.normal(size=11)))
    assert steps.col_log is not None
    assert steps.col is not None
    order, seen = path_order(steps.col_log), []
    for fine_from in (FINE, LEVELS):
        t = with_states(QTensor(codes, steps), fine_from)
        assert t.states is not None
        fine = fine_codes(t.known, t.states.scales)
        assert fine.any() == (fine_from == FINE)
        values = points(t.codes, order, fine)
        expected = (values * steps.col) * steps.row[:, None]
        assert np.array_equal(t.dequantize(), expected)
        assert not np.array_equal(QTensor(t.codes, steps).dequantize(), expected)
        second = quantizers(t.codes, order, fine)
        assert set(np.unique(second)) == {0, 1}
        assert not np.any((second == 1) & fine & (t.codes == 0))
        seen.append(values)
    assert not np.array_equal(*seen)
