"""The list search: the best there is on small matrices, better than the greedy pass on others."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from packer.test_gptq import correlated_hessian, random_steps, weighted_error

from golfpack.packer.format.rans.codes import encode_codes
from golfpack.packer.format.rans.context_model import fine_codes
from golfpack.packer.format.rans.tables import LEVELS
from golfpack.packer.format.steps import f16_steps, log_steps
from golfpack.packer.format.tensors import QTensor, States
from golfpack.packer.format.trellis import FINE, path_order, quantizers
from golfpack.packer.quantize.gptq import factorize, round_feedback
from golfpack.packer.quantize.listsearch import code_lengths, scale_levels, scales_of

WEIGHT = 0.05


def cost_of_row(codes, w, steps, factor, levels, states: States | None):
    """What the search minimises for a matrix of one row, by its definition."""
    row = np.array([codes], np.int32)
    natural = np.arange(row.shape[1])
    found, barred = QTensor(row, steps, states=states), np.zeros(row.shape[1], bool)
    values, second = found.points()[0], np.zeros(row.shape[1], int)
    if states is not None:
        fine = fine_codes(found.known, states.scales)
        second = quantizers(row, natural, fine)[0]
        barred = (second == 1) & fine[0] & (row[0] == 0)
    lengths = code_lengths(LEVELS if states is None else states.fine_from)
    cols = np.array(steps.col, np.float64) * float(steps.row[0])
    weight = np.square(np.array(steps.col, np.float64) / np.diag(factor.upper).astype(np.float64))
    weight /= weight.mean()
    work, total = w[0].astype(np.float64), 0.0
    for i, k in enumerate(codes):
        gap = work[i] / cols[i] - values[i]
        level = max(int(np.floor(levels[0][0] + levels[1][i])), 0)
        bits = np.inf if barred[i] else lengths[second[i], level, abs(k)]
        total += weight[i] * gap * gap + WEIGHT * bits
        error = (work[i] - values[i] * cols[i]) / float(factor.upper[i, i])
        work[i:] -= error * factor.upper[i, i:].astype(np.float64)
    return total


@pytest.mark.parametrize("fine_from", [None, LEVELS, FINE, 0])
@pytest.mark.parametrize("seed", range(4))
def test_a_list_of_everything_finds_the_cheapest_codes(seed, fine_from):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((1, 4)).astype(np.float32)
    hessian, steps = correlated_hessian(rng, 4), log_steps(np.ones(1), np.full(4, 0.9))
    states = None if fine_from is None else States(scales_of(w, steps), fine_from)
    factor, levels = factorize(hessian, damp=0.01), scale_levels(w, steps, states)
    found = round_feedback(w, steps, factor, None, None, WEIGHT, survivors=64, states=states)[0]
    cost = partial(cost_of_row, w=w, steps=steps, factor=factor, levels=levels, states=states)
    cheapest = min(cost(codes) for codes in itertools.product(range(-3, 4), repeat=4))
    assert cost(found) == pytest.approx(cheapest, rel=1e-5)


def outcome(
    seed: int, weight: float, survivors: int, *, trellis: bool = False, coarser: int = 0
) -> tuple[float, float]:
    """(two-sided error, bits of all codes) of a matrix that spans several blocks both ways."""
    rng = np.random.default_rng(seed)
    rows, cols = 150, 140
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    hessian, row_cov = correlated_hessian(rng, cols), correlated_hessian(rng, rows)
    factor, row_factor = factorize(hessian, damp=0.01), factorize(row_cov, damp=0.1)
    # The rd optimum's steps, at about one bit a weight.
    by_row, by_col = row_factor.diagonal(), factor.diagonal()
    middle = np.exp(np.log(by_row).mean() + np.log(by_col).mean())
    steps = log_steps(1.5 * by_row / middle, by_col)
    steps = replace(steps, row_log=steps.row_log + coarser)
    assert steps.col_log is not None
    factor = factorize(hessian, damp=0.01, order=path_order(steps.col_log))
    states = States(scales_of(w, steps)) if trellis else None
    codes = round_feedback(w, steps, factor, None, row_factor, weight, survivors, states)
    found = QTensor(codes, steps, states=states)
    e = w - found.dequantize()
    bits = 8 * len(encode_codes([codes], [found.known], scales=[states and states.scales]))
    return float(np.vdot(row_cov, e @ hessian @ e.T)), bits / codes.size


def test_more_survivors_leave_less_error_and_bits_in_the_metric_fewer_bits():
    runs = {(0.0, 1), (0.0, 2), (0.0, 16), (WEIGHT, 16)}
    found = {run: np.mean([outcome(seed, *run) for seed in range(3)], axis=0) for run in runs}
    errors = [found[0.0, n][0] for n in (1, 2, 16)]
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < 0.97 * errors[1]
    assert found[WEIGHT, 16][1] < 0.97 * found[0.0, 16][1]
    assert found[WEIGHT, 16][0] < errors[0]


def test_states_leave_less_error_at_equal_bits():
    def mean(coarser: int, survivors: int, trellis: bool) -> np.ndarray:
        runs = (
            outcome(seed, WEIGHT, survivors, trellis=trellis, coarser=coarser) for seed in range(3)
        )
        return np.mean([(np.log(error), bits) for error, bits in runs], axis=0)

    (fine, more), (coarse, fewer) = (mean(n, 16, False) for n in (0, 16))
    error, bits = mean(8, 4, True)
    assert fewer < bits < more
    assert error < np.interp(bits, [fewer, more], [coarse, fine]) - 0.04


@pytest.mark.parametrize("trellis", [False, True])
@pytest.mark.parametrize("survivors", [1, 3])
@pytest.mark.parametrize(("rows", "two_sided"), [(150, True), (600, False)])
def test_threads_share_a_matrix_and_change_no_code(rows, two_sided, survivors, trellis):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((rows, 200)).astype(np.float32)
    steps = random_steps(rng, rows, 200)
    factor = factorize(correlated_hessian(rng, 200), damp=0.01)
    row_factor = factorize(correlated_hessian(rng, rows), damp=0.1) if two_sided else None
    states = States(scales_of(w, steps)) if trellis else None
    alone, shared = (
        round_feedback(w, steps, factor, None, row_factor, WEIGHT, survivors, states, threads)
        for threads in (1, 4)
    )
    np.testing.assert_array_equal(shared, alone)


def test_codes_stay_within_their_limit():
    rng = np.random.default_rng(0)
    w = 9 * rng.standard_normal((40, 100)).astype(np.float32)
    factor, row_factor = (factorize(correlated_hessian(rng, n), damp=0.01) for n in (100, 40))
    for limit in (1, 3):
        codes = round_feedback(w, random_steps(rng, 40, 100), factor, limit, row_factor, WEIGHT, 4)
        assert np.abs(codes).max() == limit


def test_steps_in_groups_and_an_order_of_columns():
    rng = np.random.default_rng(1)
    w = rng.standard_normal((20, 70)).astype(np.float32)
    hessian = correlated_hessian(rng, 70)
    steps = f16_steps(np.exp(rng.standard_normal((20, 9)) - 1.0), 8)
    factor = factorize(hessian, damp=0.01, order=rng.permutation(70))
    errors = []
    for survivors in (1, 16):
        codes = round_feedback(w, steps, factor, None, survivors=survivors)
        of_cell = np.repeat(steps.row.astype(np.float64), 8, axis=1)[:, :70]
        errors.append(weighted_error(w - codes * of_cell, hessian).sum())
    assert errors[1] < errors[0]
