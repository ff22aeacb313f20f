"""GPTQ against a column-by-column reference, against rounding to nearest, and on degenerate Hessians."""

import numpy as np
import pytest

from golfpack.packer.format.steps import LogSteps, StepField, f16_steps, log_steps
from golfpack.packer.quantize.gptq import BLOCK, factorize, round_feedback, round_nearest
from golfpack.packer.rate import entropy


def weighted_error(error: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """e_r H e_r^T of every row of `error` (rows, cols), float64 (rows,)."""
    e = error.astype(np.float64)
    return np.einsum("ri,ri->r", e @ hessian.astype(np.float64), e)


def correlated_hessian(rng: np.random.Generator, cols: int, tokens: int | None = None):
    mixing = rng.standard_normal((cols, cols)) / np.sqrt(cols) + 0.3 * np.eye(cols)
    x = rng.standard_normal((tokens or 4 * cols, cols)) @ mixing * np.exp(rng.standard_normal(cols))
    return (x.T @ x / len(x)).astype(np.float32)


def random_steps(rng: np.random.Generator, rows: int, cols: int) -> LogSteps:
    return log_steps(
        0.3 * np.exp(0.5 * rng.standard_normal(rows)), np.exp(0.5 * rng.standard_normal(cols))
    )


def reference(w, hessian, steps: StepField, damp, limit, order, row_cov=None, row_order=None):
    """Frantar et al., algorithm 1 with blocks of one column, by dense inverses.

    With `row_cov`, each column is a Babai pass along its rows.
    """
    upper = damped_upper(hessian[np.ix_(order, order)], damp)
    rows = np.arange(len(w)) if row_cov is None else row_order
    row_upper = np.eye(len(w))
    if row_cov is not None:
        row_upper = damped_upper(row_cov[np.ix_(rows, rows)], damp)
    work = w.astype(np.float64)[np.ix_(rows, order)]
    col = np.ones(w.shape[1]) if steps.col is None else steps.col.astype(np.float64)[order]
    codes = np.zeros(w.shape, np.int64)
    bound = np.inf if limit is None else limit
    for i in range(w.shape[1]):
        step, target = steps.row.astype(np.float64)[rows] * col[i], work[:, i].copy()
        for r in range(len(w)):
            codes[r, i] = np.clip(np.rint(target[r] / step[r]), -bound, bound)
            push = (target[r] - codes[r, i] * step[r]) / row_upper[r, r]
            target[r + 1 :] -= push * row_upper[r, r + 1 :]
        error = (work[:, i] - codes[:, i] * step) / upper[i, i]
        work[:, i:] -= np.outer(error, upper[i, i:])
    out = np.empty_like(codes)
    out[np.ix_(rows, order)] = codes
    return out


def damped_upper(matrix, damp):
    h = matrix.astype(np.float64)
    h = h + damp * np.mean(np.diag(h)) * np.eye(len(h))
    return np.linalg.cholesky(np.linalg.inv(h)).T


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("rows", "cols", "limit"),
    [
        (1, 1, None),
        (1, 7, 3),
        (5, 1, None),
        (17, 33, 3),
        (9, BLOCK, None),
        (6, 2 * BLOCK + 37, 15),
        (BLOCK + 1, 5, None),
        (2 * BLOCK + 9, BLOCK + 21, 7),
    ],
)
def test_codes_are_those_of_the_reference(rows, cols, limit, ordered, two_sided):
    rng = np.random.default_rng(rows * 1000 + cols)
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    hessian, steps = correlated_hessian(rng, cols), random_steps(rng, rows, cols)
    orders = [rng.permutation(n) if ordered else np.arange(n) for n in (rows, cols)]
    factor = factorize(hessian, damp=0.01, order=orders[1])
    row_cov = correlated_hessian(rng, rows) if two_sided else None
    row_factor = None if row_cov is None else factorize(row_cov, damp=0.01, order=orders[0])
    codes = round_feedback(w, steps, factor, limit, row_factor)
    expected = reference(w, hessian, steps, 0.01, limit, orders[1], row_cov, orders[0])
    np.testing.assert_array_equal(codes, expected)
    assert codes.dtype == np.int32
    if limit is not None:
        assert np.abs(codes).max() <= limit


def dequantized(codes, steps: StepField):
    return codes * steps.row[:, None].astype(np.float64) * (1.0 if steps.col is None else steps.col)


def test_feedback_beats_rounding_to_nearest_where_inputs_correlate():
    def cost(rng: np.random.Generator) -> tuple[float, float]:
        w = rng.standard_normal((32, 40)).astype(np.float32)
        hessian, steps = correlated_hessian(rng, 40), random_steps(rng, 32, 40)
        codes = round_feedback(w, steps, factorize(hessian, damp=0.01), None)
        errors = (
            w - dequantized(codes, steps),
            w - dequantized(round_nearest(w, steps, None), steps),
        )
        gptq, nearest = (float(weighted_error(e, hessian).sum()) for e in errors)
        return gptq, nearest

    # One matrix may have bad luck; twenty do not.
    gptq, nearest = np.sum([cost(np.random.default_rng(seed)) for seed in range(20)], axis=0)
    assert gptq < 0.9 * nearest


def test_two_sides_beat_one_where_outputs_correlate_too():
    def cost(rng: np.random.Generator) -> tuple[float, float]:
        w = rng.standard_normal((32, 40)).astype(np.float32)
        hessian, row_cov = correlated_hessian(rng, 40), correlated_hessian(rng, 32)
        steps = log_steps(np.full(32, 0.4), np.ones(40))
        factor, row_factor = factorize(hessian, damp=0.01), factorize(row_cov, damp=0.01)
        errors = [
            w - dequantized(round_feedback(w, steps, factor, None, rows), steps)
            for rows in (row_factor, None)
        ]
        two, one = (float(np.trace(row_cov @ e @ hessian @ e.T)) for e in errors)
        return two, one

    # One matrix may have bad luck; twenty do not.
    two, one = np.sum([cost(np.random.default_rng(seed)) for seed in range(20)], axis=0)
    assert two < 0.9 * one


def test_the_final_cost_is_the_sum_of_squared_errors_over_u():
    # The identity behind the rd steps: e H e^T = sum_i (rounding error_i / U_ii)^2.
    rng = np.random.default_rng(3)
    w = rng.standard_normal((4096, 12)).astype(np.float32)
    hessian, steps = correlated_hessian(rng, 12), random_steps(rng, 4096, 12)
    factor = factorize(hessian, damp=0.0)
    cost = weighted_error(w - dequantized(round_feedback(w, steps, factor, None), steps), hessian)
    fine = (np.square(steps.row)[:, None] * np.square(steps.col / factor.diagonal())).sum(1) / 12
    assert cost.sum() == pytest.approx(fine.sum(), rel=0.05)


@pytest.mark.parametrize("kind", ["identity", "diagonal", "all zero", "all zero, no damp"])
def test_without_correlation_feedback_is_rounding_to_nearest(kind):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((10, 20)).astype(np.float32)
    steps = random_steps(rng, 10, 20)
    diagonal = {"identity": np.ones(20), "diagonal": rng.uniform(0.1, 9, 20)}.get(
        kind, np.zeros(20)
    )
    damp = 0.0 if "no damp" in kind else 0.01
    factor = factorize(np.diag(diagonal), damp=damp, order=np.argsort(-diagonal))
    np.testing.assert_array_equal(
        round_feedback(w, steps, factor, None), round_nearest(w, steps, None)
    )


def test_dead_columns_are_rounded_to_nearest_and_disturb_nobody():
    rng = np.random.default_rng(5)
    w = rng.standard_normal((8, 24)).astype(np.float32)
    hessian, steps = correlated_hessian(rng, 24), random_steps(rng, 8, 24)
    dead = np.array([0, 7, 23])
    hessian[dead] = hessian[:, dead] = 0
    alive = np.setdiff1d(np.arange(24), dead)
    codes = round_feedback(w, steps, factorize(hessian, damp=0.01), None)
    np.testing.assert_array_equal(codes[:, dead], round_nearest(w, steps, None)[:, dead])
    assert steps.col_log is not None
    rest = LogSteps(steps.row_log, steps.col_log[alive])
    same_damp = 0.01 * len(alive) / 24  # it is a share of the mean diagonal, zeros included
    sub = factorize(hessian[np.ix_(alive, alive)], damp=same_damp)
    np.testing.assert_array_equal(codes[:, alive], round_feedback(w[:, alive], rest, sub, None))


def test_a_share_of_each_entry_says_the_same_in_any_units():
    rng = np.random.default_rng(6)
    hessian = correlated_hessian(rng, 12)
    units = np.exp(3 * rng.standard_normal(12))
    one = factorize(hessian, damp=0.0, own_damp=0.1)
    two = factorize(hessian / np.outer(units, units), damp=0.0, own_damp=0.1)
    np.testing.assert_allclose(two.upper, one.upper * units, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_singular_hessian_raises_the_damp_and_says_so(scale):
    rng = np.random.default_rng(6)
    hessian = scale * correlated_hessian(rng, 30, tokens=5).astype(np.float64)  # rank 5
    factor = factorize(hessian, damp=0.0)
    assert factor.damp > 0
    assert np.isfinite(factor.upper).all()
    assert (factor.diagonal() > 0).all()
    well = factorize(hessian, damp=0.01)
    assert well.damp == 0.01
    w = rng.standard_normal((4, 30)).astype(np.float32)
    steps = f16_steps(np.full(4, 0.2))
    error = w - dequantized(round_feedback(w, steps, well, None), steps)
    nearest = w - dequantized(round_nearest(w, steps, None), steps)
    assert weighted_error(error, hessian).sum() < weighted_error(nearest, hessian).sum()


def test_factor_is_the_cholesky_of_the_inverse():
    rng = np.random.default_rng(7)
    hessian = correlated_hessian(rng, 16)
    factor = factorize(hessian, damp=0.1, order=rng.permutation(16))
    h = hessian.astype(np.float64) + 0.1 * np.diag(hessian).mean() * np.eye(16)
    h = h[np.ix_(factor.order, factor.order)]
    np.testing.assert_allclose(factor.upper.T @ factor.upper @ h, np.eye(16), atol=1e-6)
    assert (np.tril(factor.upper, -1) == 0).all()


def test_a_rate_weight_buys_entropy_with_error():
    rng = np.random.default_rng(5)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    hessian = correlated_hessian(rng, 96)
    factor = factorize(hessian, damp=0.01)
    steps = log_steps(np.full(64, 0.9), np.ones(96))

    def outcome(weight: float) -> tuple[float, float]:
        codes = round_feedback(w, steps, factor, None, rate_weight=weight)
        error = w - dequantized(codes, steps)
        return entropy(codes), float(weighted_error(error, hessian).sum())

    bits, errors = zip(*(outcome(weight) for weight in (0.0, 0.03, 0.1)), strict=True)
    assert bits[0] > bits[1] > bits[2]
    assert errors[0] < errors[1] < errors[2]
