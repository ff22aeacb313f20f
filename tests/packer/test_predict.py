"""Predictions: the quadratic model is a sum over tensors, and one probe corrects it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from golfpack.eval.divergence import mean_kl
from golfpack.packer.aim import Budget
from golfpack.packer.format.tensors import Raw
from golfpack.packer.predict import PROBE_BPW, Predictor, frontier, quadratic_kl
from golfpack.packer.recipe import load_recipe
from golfpack.packer.search import fit_bytes
from golfpack.packer.state import run_passes

# 2.7 to 7.1 bits per weight: below, so small a model is beyond the quadratic model's reach.
BUDGETS = (15_000, 18_000, 22_000, 26_000, 33_000)


@pytest.fixture
def ready(make_state):
    """(state as the search gets it, recipe) under recipe rd."""
    recipe = load_recipe("rd")
    return run_passes(recipe.prepare, make_state()), recipe


def built(recipe, ready, budget):
    """The artifact of a budget."""
    return fit_bytes(recipe.search, recipe.round, replace(ready, limit=budget), Budget(budget))


@pytest.fixture
def measure(tiny, tiny_tokens):
    """KL(float || tensors) of the tiny model, for real."""
    shapes = {t.name: t.shape for t in tiny.spec.tensors}
    reference = tiny.module()

    def kl(tensors):
        weights = {n: t.dequantize().reshape(shapes[n]) for n, t in tensors.items()}
        other = tiny.module(weights)
        return mean_kl(reference, other, tiny_tokens.sequences, 1)

    return kl


def test_the_quadratic_kl_is_the_sum_of_its_tensors(ready):
    state, recipe = ready
    done = run_passes(recipe.round, replace(state, dial=0.05))
    exact = {n: Raw(w, "f32") for n, w in state.weights.items()}
    assert quadratic_kl(replace(done, tensors=exact)) == 0
    parts = {
        n: quadratic_kl(replace(done, tensors={**exact, n: t})) for n, t in done.tensors.items()
    }
    assert all(part > 0 for part in parts.values())
    assert quadratic_kl(done) == pytest.approx(sum(parts.values()), rel=1e-9)


def test_the_probe_corrects_kl_and_size(ready):
    state, recipe = ready
    plain = Predictor(state, recipe)
    assert plain.kl_ratio == 1
    fake = replace(state, measure=lambda t: 3.5 * quadratic_kl(replace(state, tensors=t)))
    corrected = Predictor(fake, recipe)
    assert corrected.kl_ratio == pytest.approx(3.5)
    for budget in BUDGETS:
        one, two = plain.predict(budget), corrected.predict(budget)
        assert two.kl == pytest.approx(3.5 * one.kl)
        assert replace(two, kl=one.kl, tensors=one.tensors) == one


def test_at_the_probe_the_prediction_is_the_measurement(ready, measure):
    state, recipe = ready
    state = replace(state, measure=measure)
    p = Predictor(state, recipe)
    x = p.rate.solve(PROBE_BPW * p.rate.weights)
    probe = run_passes(recipe.round, replace(state, dial=2.0**x))
    assert probe.blob is not None
    found = p.predict(len(probe.blob))
    assert found.artifact_bytes == pytest.approx(len(probe.blob), rel=0.002)
    assert found.kl == pytest.approx(measure(probe.tensors), rel=0.02)


def test_predictions_follow_the_budget_and_what_is_then_built(ready, measure):
    state, recipe = ready
    state = replace(state, measure=measure)
    predictor = Predictor(state, recipe)
    found = [predictor.predict(b) for b in BUDGETS]
    assert [p.budget_bytes for p in found] == list(BUDGETS)
    for small, large in pairwise(found):
        assert small.kl > large.kl > 0
        assert small.dial > large.dial
        assert small.artifact_bytes < large.artifact_bytes
    for p in found:
        assert p.artifact_bytes == pytest.approx(p.budget_bytes, rel=0.002)
        assert p.bits_per_weight == 8 * p.artifact_bytes / state.spec.numel
        done = built(recipe, state, p.budget_bytes)
        # Above 6 bits the KL of so small a model is float32's noise.
        assert p.bits_per_weight <= 6
        assert 1 / 1.5 < p.kl / measure(done.tensors) < 1.5
        assert p.dial == pytest.approx(done.dial, rel=0.25)


def test_a_frontier_goes_through_the_build_and_near_other_builds(make_state):
    recipe = load_recipe("rd")
    ready = run_passes(recipe.prepare, make_state())
    done = built(recipe, ready, 26_000)
    points = frontier(Predictor(ready, recipe).rate, done.dial, done.size, quadratic_kl(done))
    assert 9 <= len(points) <= 13
    assert (done.size, quadratic_kl(done)) in points
    assert all(a < c and b > d for (a, b), (c, d) in pairwise(points))
    sizes, kls = zip(*points, strict=True)
    for budget in (22_000, 30_000):
        other = built(recipe, ready, budget)
        expected = np.exp(np.interp(other.size, sizes, np.log(kls)))
        assert quadratic_kl(other) == pytest.approx(expected, rel=0.25)
