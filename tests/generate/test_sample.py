"""Drawing tokens: whose probability is left, how often each comes, and from what state."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.generate.sample import Sampler, Sampling, probabilities

LOGITS = st.lists(st.floats(-30, 30), min_size=2, max_size=40).map(torch.tensor)


@given(LOGITS, st.floats(0.05, 5), st.integers(0, 50), st.floats(0.01, 1))
def test_what_is_left_is_the_likeliest_and_enough_of_it(logits, temperature, top_k, top_p):
    full = (logits.double() / temperature).softmax(-1)
    p = probabilities(logits, Sampling(temperature, top_k, top_p))
    left = p > 0
    assert p.sum().item() == pytest.approx(1)
    assert left[logits.argmax()]
    # Nothing that is left out is likelier than what is left.
    assert full[left].min() >= max(full[~left].tolist(), default=0.0)
    # What is left keeps its proportions.
    torch.testing.assert_close(p[left], full[left] / full[left].sum())
    if 0 < top_k < len(logits) and top_p == 1:
        assert left.sum() >= top_k
    if not 0 < top_k < len(logits):
        # Of the whole distribution: enough, and without the last one too little.
        assert full[left].sum() >= top_p - 1e-9 or left.all()
        assert full[left].sum() - full[left].min() < top_p + 1e-9


def test_top_k_keeps_ties_and_a_temperature_of_0_takes_the_first_of_them():
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    assert (probabilities(logits, Sampling(1, top_k=2)) > 0).tolist() == [0, 1, 1, 0, 1]
    assert probabilities(logits, Sampling(0)).tolist() == [0, 1, 0, 0, 0]
    tiny = probabilities(torch.tensor([1e4, -1e4, 0.0]), Sampling(1e-9, top_k=0))
    assert tiny.tolist() == [1, 0, 0]


def test_tokens_come_as_often_as_they_should():
    """8,000 draws: each token within 4 standard deviations of its share."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    how = Sampling(0.7, top_k=4, top_p=0.95, seed=5)
    p, draw = probabilities(logits, how).numpy(), Sampler(how)
    counts = np.bincount([draw(logits) for _ in range(8_000)], minlength=5)
    spread = np.sqrt(8_000 * p * (1 - p))
    assert (np.abs(counts - 8_000 * p) <= 4 * spread).all()
    assert (counts[p == 0] == 0).all()


def test_the_same_seed_draws_the_same_and_nobody_elses_state_moves():
    logits = torch.zeros(1000)
    before = torch.random.get_rng_state()
    others = {Sampler(Sampling(1, 0, 1, seed))(logits) for seed in range(20)}
    draws = [Sampler(Sampling(1, 0, 1, 3)) for _ in range(2)]
    first, second = ([d(logits) for _ in range(50)] for d in draws)
    assert first == second
    assert len(others) > 15
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature of -0.1"),
        ({"top_k": -1}, "--top-k -1"),
        ({"top_p": 0.0}, "--top-p 0.0"),
        ({"top_p": 1.1}, "--top-p 1.1"),
    ],
)
def test_impossible_options(changes, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**changes)


def test_logits_that_are_none():
    with pytest.raises(UsageError, match="not finite"):
        probabilities(torch.tensor([0.0, float("nan")]), Sampling())
