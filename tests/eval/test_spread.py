"""How much of a figure is the text's doing: the formula against resampled streams."""

import math

import numpy as np
import pytest

from golfpack.eval.spread import LEAST, MOST, TARGETS, spread


def figures(float_nll, nll, size):
    """(bits per byte of the float model, quant gap)."""
    before, after = (x.sum() / math.log(2) / size.sum() for x in (float_nll, nll))
    return before, after - before


def stream(rng, stretches=MOST, length=TARGETS):
    """Losses of two models: texts move both alike, quantizing adds a little of its own."""
    hard = np.repeat(rng.normal(4, 0.5, stretches), length)
    float_nll = hard + rng.normal(0, 1, stretches * length)
    nll = float_nll + 0.02 + np.repeat(rng.normal(0, 0.01, stretches), length)
    return float_nll, nll, rng.integers(1, 6, stretches * length)


def test_errors_are_what_other_texts_of_the_kind_do():
    told = [spread(*stream(np.random.default_rng(i))) for i in range(40)]
    found = np.array([figures(*stream(np.random.default_rng(1000 + i))) for i in range(400)])
    assert all(s is not None and s.stretches == MOST for s in told)
    assert np.mean([s.float_bpb for s in told]) == pytest.approx(found[:, 0].std(), rel=0.1)
    assert np.mean([s.quant_gap for s in told]) == pytest.approx(found[:, 1].std(), rel=0.1)
    # Both models meet the same texts: the gap is far surer than either figure.
    assert told[0].quant_gap < 0.1 * told[0].float_bpb


def test_equal_models_have_a_certain_gap_and_short_streams_tell_nothing():
    float_nll, _, size = stream(np.random.default_rng(0))
    same = spread(float_nll, float_nll, size)
    assert same is not None
    assert same.quant_gap == 0
    few = LEAST * TARGETS
    assert spread(float_nll[: few - 1], float_nll[: few - 1], size[: few - 1]) is None
    found = spread(float_nll[:few], float_nll[:few], size[:few])
    assert found is not None
    assert found.stretches == LEAST
