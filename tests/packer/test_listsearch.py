"""The list search: the best there is on small matrices, better than the greedy pass on others."""

import itertools

import numpy as np
import pytest
from packer.test_gptq import correlated_hessian, dequantized, random_steps, weighted_error

from golfpack.packer.format.steps import f16_steps, log_steps
from golfpack.packer.quantize.gptq import factorize, round_feedback
from golfpack.packer.quantize.listsearch import code_lengths, scale_levels
from golfpack.packer.rate import entropy

WEIGHT = 0.05


def length(code: int, level: float) -> float:
    return float(code_lengths()[max(int(np.rint(level)), 0), abs(code)])


def cost_of_row(codes, w, steps, factor, levels):
    """What the search minimises for a matrix of one row, by its definition."""
    cols = np.array(steps.col, np.float64) * float(steps.row[0])
    weight = np.square(np.array(steps.col, np.float64) / np.diag(factor.upper).astype(np.float64))
    weight /= weight.mean()
    work, total = w[0].astype(np.float64), 0.0
    for i, k in enumerate(codes):
        gap = work[i] / cols[i] - k
        total += weight[i] * gap * gap + WEIGHT * length(k, levels[0][0] + levels[1][i])
        error = (work[i] - k * cols[i]) / float(factor.upper[i, i])
        work[i:] -= error * factor.upper[i, i:].astype(np.float64)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_a_list_of_everything_finds_the_cheapest_codes(seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((1, 4)).astype(np.float32)
    hessian, steps = correlated_hessian(rng, 4), log_steps(np.ones(1), np.full(4, 0.9))
    factor, levels = factorize(hessian, damp=0.01), scale_levels(w, steps)
    found = round_feedback(w, steps, factor, None, None, WEIGHT, survivors=64)[0]
    every = itertools.product(range(-3, 4), repeat=4)
    cheapest = min(cost_of_row(codes, w, steps, factor, levels) for codes in every)
    assert cost_of_row(found, w, steps, factor, levels) == pytest.approx(cheapest, rel=1e-5)


def outcome(seed: int, weight: float, survivors: int) -> tuple[float, float]:
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
    codes = round_feedback(w, steps, factor, None, row_factor, weight, survivors)
    e = w - dequantized(codes, steps)
    return float(np.vdot(row_cov, e @ hessian @ e.T)), entropy(codes)


def test_more_survivors_leave_less_error_and_bits_in_the_metric_fewer_bits():
    runs = {(0.0, 1), (0.0, 2), (0.0, 16), (WEIGHT, 16)}
    found = {run: np.mean([outcome(seed, *run) for seed in range(3)], axis=0) for run in runs}
    errors = [found[0.0, n][0] for n in (1, 2, 16)]
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < 0.97 * errors[1]
    assert found[WEIGHT, 16][1] < 0.97 * found[0.0, 16][1]
    assert found[WEIGHT, 16][0] < errors[0]


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
