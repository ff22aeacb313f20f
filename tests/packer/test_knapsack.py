"""Mixed precision: every search against brute force, and the fast one against the exact one."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from golfpack.errors import BudgetError, UsageError
from golfpack.packer.quantize.knapsack import Choice, Menu, frontier, lagrangian, milp

SOLVERS = (lagrangian, milp)
BITS = np.array([4, 5, 6, 8])


def menu_of(sizes, errors) -> Menu:
    n, k = np.shape(sizes)
    names = tuple(f"t{i}" for i in range(n))
    return Menu(names, tuple(f"o{j}" for j in range(k)), np.array(sizes), np.array(errors))


def realistic(seed: int, n: int) -> tuple[Menu, float]:
    """Matrices of a small transformer: errors c_i 4^-b over three decades, n_i b / 8 bytes less 0-7%."""
    rng = np.random.default_rng(seed)
    weights = rng.choice([2**16, 2**18, 2**19, 2**20, 3 * 2**19], n)
    sizes = np.ceil(np.outer(weights, BITS / 8) * rng.uniform(0.93, 1, (n, 4)))
    errors = np.outer(10 ** rng.uniform(-3, 0, n), 4.0**-BITS) * rng.uniform(0.8, 1.2, (n, 4))
    low, high = sizes.min(1).sum(), sizes.max(1).sum()
    return menu_of(sizes, errors), float(np.floor(low + (high - low) * rng.uniform(0.1, 0.9)))


def brute_force(menu: Menu, budget: float) -> float:
    """Least error of all choices within the budget; inf if there is none."""
    n, k = menu.bytes.shape
    every = np.array(list(product(range(k), repeat=n)))
    fits = menu.bytes[np.arange(n), every].sum(1) <= budget
    return float(menu.errors[np.arange(n), every].sum(1)[fits].min(initial=np.inf))


@st.composite
def menus(draw):
    """Small menus with ties, dominated options and errors of any span; a budget that may not do."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    size = draw(st.sampled_from([st.integers(0, 6), st.integers(1, 10**7), st.floats(0, 1e4)]))
    few = st.integers(0, 4).map(float)
    error = draw(st.sampled_from([few, st.floats(-12, 0).map(lambda x: 10.0**x)]))
    table = [st.lists(x, min_size=n * k, max_size=n * k) for x in (size, error)]
    sizes, errors = (np.array(draw(x), float).reshape(n, k) for x in table)
    menu = menu_of(sizes, errors)
    share = draw(st.floats(-0.1, 1.1))
    low, high = menu.bytes.min(1).sum(), menu.bytes.max(1).sum()
    return menu, float(low + share * (high - low))


def check_consistent(menu: Menu, budget: float, choice: Choice) -> None:
    rows = np.arange(len(menu.names))
    assert choice.bytes == menu.bytes[rows, choice.index].sum() <= budget
    assert choice.error == menu.errors[rows, choice.index].sum() >= choice.bound


@settings(max_examples=250, deadline=None, derandomize=True)
@given(menus())
# Only sharing one option beats what the hulls lead to.
@example((menu_of([[1, 8, 6], [7, 6, 3], [3, 4, 3]], [[6, 5, 2], [2, 5, 5], [6, 4, 6]]), 11.0))
# The best choice has an option whose reduced cost is most of what there is to gain.
@example((menu_of([[2, 4, 8], [3, 6, 6], [5, 6, 7]], [[7, 7, 1], [4, 1, 8], [8, 2, 0]]), 14.0))
def test_every_solver_against_brute_force(case):
    menu, budget = case
    best = brute_force(menu, budget)
    assume(np.isfinite(best))
    steps = -np.diff([error for _, error in frontier(menu)])
    found = {solve: solve(menu, budget) for solve in SOLVERS}
    for solve, choice in found.items():
        check_consistent(menu, budget, choice)
        assert choice.bound <= best * (1 + 1e-9)
        assert choice.error >= best * (1 - 1e-12)
        np.testing.assert_array_equal(solve(menu, budget).index, choice.index)
    assert found[milp].error == pytest.approx(best, rel=1e-8, abs=0)
    assert found[milp].bound >= best * (1 - 1e-6)
    fast = found[lagrangian].error
    assert fast <= best + steps.max(initial=0.0) * (1 + 1e-9)
    shared = menu.errors.sum(0)[menu.bytes.sum(0) <= budget]
    assert fast <= shared.min(initial=np.inf) * (1 + 1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(menus())
def test_the_frontier_is_the_lower_convex_hull_of_all_choices(case):
    menu, _ = case
    points = np.array(frontier(menu))
    n, k = menu.bytes.shape
    every = np.array(list(product(range(k), repeat=n)))
    sizes = menu.bytes[np.arange(n), every].sum(1)
    errors = menu.errors[np.arange(n), every].sum(1)
    assert points[0, 0] == sizes.min()
    assert points[-1, 1] == pytest.approx(errors.min(), rel=1e-12)
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) < 0).all()
    below = np.interp(sizes, points[:, 0], points[:, 1])
    assert (errors >= below - 1e-9 * errors.max()).all()
    for size, error in points:  # and every point is a choice
        assert np.isclose(errors[sizes == size], error, rtol=1e-9).any()


@pytest.mark.parametrize("n", [66, 100])
def test_lagrangian_is_within_a_percent_on_networks(n):
    for seed in range(12):
        menu, budget = realistic(seed, n)
        fast, exact = lagrangian(menu, budget), milp(menu, budget)
        for choice in (fast, exact):
            check_consistent(menu, budget, choice)
        assert exact.error * (1 - 1e-9) <= fast.error <= 1.01 * exact.error
        assert exact.error - exact.bound <= 1e-8 * exact.error


def test_lagrangian_on_networks_of_40_tensors():
    """A single step can be a percent of so small a network's error, so a few menus leave more."""
    excess = []
    for seed in range(40):
        menu, budget = realistic(seed, 40)
        excess.append(lagrangian(menu, budget).error / milp(menu, budget).error - 1)
    assert np.median(excess) < 0.002
    assert np.quantile(excess, 0.9) < 0.01
    assert max(excess) < 0.03


def test_errors_far_below_the_total_still_count():
    """One tensor's error hides the others' by twelve decades; they are chosen right all the same."""
    menu, budget = realistic(3, 12)
    sizes = np.vstack([menu.bytes, np.full(4, 1000.0)])
    errors = np.vstack([menu.errors * 1e-9, np.ones(4)])
    alone = milp(menu, budget)
    beside = milp(menu_of(sizes, errors), budget + 1000, gap=0.0)
    np.testing.assert_array_equal(beside.index[:-1], alone.index)


def test_dominated_options_are_never_chosen():
    menu = menu_of([[10, 20, 30, 10], [5, 9, 9, 7]], [[8, 9, 1, 7], [6, 3, 2, 6]])
    for budget in range(15, 45):
        for solve in SOLVERS:
            first, second = solve(menu, budget).index
            assert first in (2, 3)
            assert second in (0, 2)
    assert frontier(menu) == [(15, 13), (19, 9), (39, 3)]


def test_one_tensor_takes_the_best_option_that_fits():
    menu = menu_of([[10, 20, 30, 40]], [[9, 8, 2, 1]])  # option 1 is above the hull
    for budget, option in ((10, 0), (19.9, 0), (20, 1), (30, 2), (39, 2), (1e9, 3)):
        for solve in SOLVERS:
            assert solve(menu, budget).index.tolist() == [option]


def test_without_a_choice_there_is_nothing_to_search():
    menu = menu_of([[10.5], [20.25]], [[1e-12], [1]])
    for solve in SOLVERS:
        choice = solve(menu, 30.75)
        assert (choice.bytes, choice.error) == (30.75, choice.bound)
    assert frontier(menu) == [(30.75, pytest.approx(1))]


@pytest.mark.parametrize("solve", SOLVERS)
def test_a_budget_below_the_cheapest_options_says_how_much_is_missing(solve):
    menu = menu_of([[100, 200], [60, 50]], [[2, 1], [1, 2]])
    assert solve(menu, 150).bytes == 150
    with pytest.raises(BudgetError, match="31 bytes over") as caught:
        solve(menu, 119.5)
    assert caught.value.shortfall == 31
    assert "150 bytes" in str(caught.value.hint)
    for budget in (np.nan, np.inf):
        with pytest.raises(UsageError, match="budget"):
            solve(menu, budget)


@pytest.mark.parametrize(("time_limit", "gap"), [(0, 0), (np.nan, 0), (1, -1), (1, np.nan)])
def test_milp_refuses_limits_that_are_none(time_limit, gap):
    with pytest.raises(UsageError, match="search"):
        milp(menu_of([[1]], [[1]]), 1, time_limit, gap=gap)


def test_a_gap_allows_worse_and_the_bound_says_so():
    menu, budget = realistic(1, 66)
    exact, loose = milp(menu, budget), milp(menu, budget, gap=0.05)
    assert exact.error <= loose.error <= 1.05 * loose.bound
    assert loose.bound <= exact.error


@pytest.mark.parametrize(
    ("sizes", "errors", "said"),
    [
        ([[1, 2]], [[1, np.nan]], "errors of t0 at o1 cannot be nan"),
        ([[1, np.inf]], [[1, 2]], "bytes of t0 at o1 cannot be inf"),
        ([[1, 2]], [[-1e-9, 2]], "errors of t0 at o0"),
        ([[1, 2]], [[1, 2, 3]], "shape"),
        (np.zeros((2, 0)), np.zeros((2, 0)), "2 tensors at 0 options"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "0 tensors at 2 options"),
    ],
)
def test_menus_that_measure_nothing_are_refused(sizes, errors, said):
    with pytest.raises(UsageError, match=said):
        menu_of(sizes, errors)
