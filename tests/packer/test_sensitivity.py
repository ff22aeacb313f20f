"""What calibration boils down to: the quadratic KL model and the joining of several roles."""

from dataclasses import replace

import numpy as np
import pytest

from golfpack.packer.engine import HostEngine
from golfpack.packer.quantize.sensitivity import (
    Damp,
    Sensitivity,
    combine_uses,
    measure_sensitivity,
)
from golfpack.spec import CalibStats, Use


def random_use(rng, kind, rows, cols, gradients=True):
    x = rng.standard_normal((3 * cols, cols))
    weight = rng.uniform(0, 2, rows) if gradients else None
    return Use(kind, (x.T @ x / len(x)).astype(np.float32), weight)


def test_one_use_is_that_use():
    use = random_use(np.random.default_rng(0), "linear", 7, 5)
    hessian, row_weight = combine_uses((use,), 7)
    np.testing.assert_allclose(hessian, use.hessian, rtol=1e-12)
    np.testing.assert_allclose(row_weight, use.row_weight, rtol=1e-12)


def test_two_roles_keep_every_rows_trace_and_the_sum_over_rows():
    rng = np.random.default_rng(1)
    uses = (random_use(rng, "embedding", 9, 6), random_use(rng, "linear", 9, 6))
    hessian, row_weight = combine_uses(uses, 9)
    for r in range(9):
        exact = sum(u.row_weight[r] * u.hessian.astype(np.float64) for u in uses)
        assert row_weight[r] * hessian.trace() == pytest.approx(exact.trace(), rel=1e-9)
    exact_sum = sum(u.row_weight.sum() * u.hessian.astype(np.float64) for u in uses)
    np.testing.assert_allclose(row_weight.sum() * hessian, exact_sum, rtol=1e-9, atol=1e-12)


def test_without_gradients_the_linear_hessian_stands_alone():
    rng = np.random.default_rng(2)
    uses = (
        random_use(rng, "embedding", 4, 3, gradients=False),
        random_use(rng, "linear", 4, 3, gradients=False),
    )
    hessian, row_weight = combine_uses(uses, 4)
    np.testing.assert_array_equal(hessian, uses[1].hessian)
    np.testing.assert_array_equal(row_weight, np.ones(4))


def test_kl_is_the_double_loop():
    rng = np.random.default_rng(3)
    use = random_use(rng, "linear", 4, 5)
    error = rng.standard_normal((4, 5))
    s = Sensitivity(use.hessian.astype(np.float64), use.row_weight, None, measured=True)
    total = 0.0
    for r in range(4):
        for i in range(5):
            for j in range(5):
                total += 0.5 * use.row_weight[r] * error[r, i] * use.hessian[i, j] * error[r, j]
    assert s.kl(error) == pytest.approx(total, rel=1e-9)
    plain = Sensitivity(None, use.row_weight, None, measured=True)
    assert plain.kl(error) == pytest.approx(0.5 * (use.row_weight @ np.square(error)).sum())


def test_kl_of_rows_that_are_not_independent_is_the_quadruple_loop():
    rng = np.random.default_rng(9)
    use = random_use(rng, "linear", 3, 4)
    x = rng.standard_normal((9, 3))
    cov = x.T @ x / 9
    error = rng.standard_normal((3, 4))
    s = Sensitivity(use.hessian.astype(np.float64), np.diag(cov), None, True, row_cov=cov)
    total = 0.0
    for r in range(3):
        for q in range(3):
            for i in range(4):
                for j in range(4):
                    total += 0.5 * cov[r, q] * error[r, i] * use.hessian[i, j] * error[q, j]
    assert s.kl(error) == pytest.approx(total, rel=1e-9)
    diagonal = Sensitivity(s.hessian, s.row_weight, None, True, row_cov=np.diag(np.diag(cov)))
    independent = Sensitivity(s.hessian, s.row_weight, None, True)
    assert diagonal.kl(error) == pytest.approx(independent.kl(error), rel=1e-12)


def measure(weights, stats, row_damp=None, order="natural"):
    calls = []
    found = measure_sensitivity(
        weights, stats, damp=Damp(0.01, 0.0), order=order, threads=2,
        row_damp=None if row_damp is None else Damp(row_damp, 0.0),
        engine=HostEngine(), notify=lambda *a: calls.append(a),
    )  # fmt: skip
    assert [c[1] for c in calls] == list(range(1, len(weights) + 1))
    return found


def stats_of(uses, fisher):
    return CalibStats(uses, fisher, 10, "test", "0")


WEIGHTS = {
    "m": np.random.default_rng(4).standard_normal((6, 4)).astype(np.float32),
    "v": np.ones((2, 3), np.float32),
    "gone": np.zeros(5, np.float32),
}


def test_rounding_goes_by_the_diagonals_of_both_sides():
    use = random_use(np.random.default_rng(6), "linear", 6, 4)
    x = np.random.default_rng(7).standard_normal((20, 6)) * np.exp(np.arange(6) % 4)
    use = replace(use, output_cov=(x.T @ x / 20).astype(np.float32))
    stats, weights = stats_of({"m": (use,)}, {}), {"m": WEIGHTS["m"]}
    for order, sign in (("falling", -1), ("rising", 1)):
        found = measure(weights, stats, row_damp=0.1, order=order)["m"]
        for factor, of in ((found.factor, use.hessian), (found.row_factor, use.output_cov)):
            assert factor is not None
            assert (sign * np.diff(of.diagonal()[factor.order]) > 0).all()
    plain = measure(weights, stats, row_damp=0.1)["m"]
    assert plain.factor is not None
    assert plain.factor.order.tolist() == [0, 1, 2, 3]


def test_row_weights_are_positive_whatever_was_measured():
    rng = np.random.default_rng(5)
    use = random_use(rng, "linear", 6, 4)
    dead_rows = Use("linear", use.hessian, np.array([0, 0, 0, 1.0, 2.0, 0]))
    nothing = Use("linear", use.hessian, np.zeros(6))
    blind = Use("linear", np.zeros((4, 4), np.float32), use.row_weight)
    for stats in (
        None,
        stats_of({"m": (dead_rows,)}, {"v": np.zeros((2, 3))}),
        stats_of({"m": (nothing,)}, {"v": np.ones((2, 3))}),
        stats_of({"m": (nothing,)}, {"v": np.zeros((2, 3))}),
        stats_of({"m": (blind,)}, {"v": np.zeros((2, 3))}),
        stats_of({"m": (nothing, blind)}, {}),
    ):
        for name, s in measure(WEIGHTS, stats).items():
            assert (s.row_weight > 0).all(), (name, stats)
            assert np.isfinite(s.row_weight).all(), name
            assert s.measured == (
                stats is not None and name in {**stats.uses, **stats.vector_fisher}
            )


def test_a_vector_counts_by_its_fisher():
    fisher = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    s = measure(WEIGHTS, stats_of({}, {"v": fisher}))["v"]
    np.testing.assert_allclose(s.row_weight, [2.0, 4.0])
    assert s.factor is None
