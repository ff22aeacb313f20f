"""Pruning: exact prices, exact budgets, and cheaper than magnitude."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import packed

from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.prune import PruneMagnitude, PruneOnes
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.quantize.prune import prune_at
from golfpack.packer.recipe import load_recipe
from golfpack.packer.state import run_passes

RULES = (
    {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
    {"scheme": "int", "bits": 6, "clip": {"id": "sd", "k": 16.0}, "auto": False},
)
ENCODE = load_recipe("gptq-lzma").write[0]


def rounded(state, *, two_sided=False):
    return run_passes([Policy(RULES), Sense(two_sided=two_sided), Clip(), Steps(), Round()], state)


def quantized(state):
    return {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}


def kl(state):
    return sum(
        state.sensitivity[n].kl(t.dequantize() - state.matrix(n))
        for n, t in quantized(state).items()
    )


def size(state):
    return run_passes([ENCODE], state).size


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("price", [1e-9, 1e-7, 1e-5])
def test_every_zero_pays_for_itself(make_state, two_sided, price):
    """KL plus the price of all bits falls; where rows are independent, no zero more makes it fall."""
    state = rounded(make_state(), two_sided=two_sided)
    tensors = quantized(state)
    weights = {n: state.matrix(n) for n in tensors}
    done = prune_at(price, tensors, weights, state.sensitivity, 1)
    after = replace(state, tensors={**state.tensors, **done.tensors})
    assert kl(after) <= kl(state) + price * done.saved_bits
    gone = sum(int(np.sum(done.tensors[n].codes != t.codes)) for n, t in tensors.items())
    assert gone == done.zeroed
    rng = np.random.default_rng(0)
    for name in tensors:
        before, codes = tensors[name].codes, done.tensors[name].codes
        changed = before != codes
        assert (np.abs(before[changed]) == 1).all()
        assert (codes[changed] == 0).all()
        counts = {q: max(int(np.sum(before == q)), 1) for q in (-1, 0, 1)}
        left = np.flatnonzero(np.abs(codes) == 1)
        if two_sided:  # rows may move each other once more after their turn
            continue
        for position in rng.permutation(left)[:12]:
            one = codes.copy()
            one.reshape(-1)[position] = 0
            bits = np.log2(counts[0] / counts[int(codes.reshape(-1)[position])])
            error = replace(tensors[name], codes=one).dequantize() - weights[name]
            known = state.sensitivity[name]
            now = known.kl(done.tensors[name].dequantize() - weights[name])
            assert bits <= 0 or known.kl(error) - now >= price * bits - 1e-9 * now


def test_what_zeros_cost_is_kept_up_to_date(make_state, monkeypatch):
    """One round more from where it ended, with everything worked out anew, finds next to nothing."""
    state = rounded(make_state(), two_sided=True)
    tensors = quantized(state)
    weights = {n: state.matrix(n) for n in tensors}
    monkeypatch.setattr("golfpack.packer.quantize.prune.ROUNDS", 12)
    done = prune_at(1e-6, tensors, weights, state.sensitivity, 1)
    again = prune_at(1e-6, done.tensors, weights, state.sensitivity, 1)
    assert again.zeroed <= 0.01 * done.zeroed


def test_a_higher_price_saves_more_whatever_the_threads(make_state):
    state = rounded(make_state(), two_sided=True)
    tensors = quantized(state)
    weights = {n: state.matrix(n) for n in tensors}
    found = [
        prune_at(p, tensors, weights, state.sensitivity, t)
        for p, t in ((1e-9, 1), (1e-7, 1), (1e-5, 1), (1e-5, 2))
    ]
    saved = [f.saved_bits for f in found]
    assert saved[0] < saved[1] < saved[2] == saved[3]
    for name in tensors:
        np.testing.assert_array_equal(found[2].tensors[name].codes, found[3].tensors[name].codes)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03])
def test_the_file_ends_just_below_the_budget(make_state, share):
    state = rounded(make_state())
    whole = size(state)
    budget = int((1 - share) * whole)
    done = run_passes(
        [ENCODE, PruneOnes(most=0.7)],
        replace(state, limit=budget),
    )
    assert len(done.blob) <= budget
    assert budget - len(done.blob) <= max(0.001 * budget, 16)
    assert done.pruning[-1].zeroed > 0
    for name, t in quantized(done).items():
        changed = t.codes != state.tensors[name].codes
        assert (np.abs(state.tensors[name].codes[changed]) == 1).all()
        assert (t.codes[changed] == 0).all()
    # Not more than needed: ones cost a fraction of a bit more than zeros, and it can be a small one.
    assert done.pruning[-1].zeroed <= 8 * 8 * (whole - len(done.blob)) + 64


def test_it_costs_less_than_zeroing_the_smallest_codes(make_state):
    state = rounded(make_state())
    budget = int(0.99 * size(state))
    done = run_passes(
        [ENCODE, PruneOnes(most=0.7)],
        replace(state, limit=budget),
    )

    def by_magnitude(count: int):
        """The `count` +-1 codes with the smallest steps go, as the records have it."""
        every = [
            (np.abs(t.dequantize()).reshape(-1)[p := np.flatnonzero(np.abs(t.codes) == 1)], n, p)
            for n, t in quantized(state).items()
        ]
        cut = np.sort(np.concatenate([v for v, _, _ in every]))[count]
        tensors = dict(state.tensors)
        for value, name, position in every:
            codes = tensors[name].codes.copy()
            codes.reshape(-1)[position[value < cut]] = 0
            tensors[name] = replace(tensors[name], codes=codes)
        return replace(state, tensors=tensors)

    low, high = 0, 10_000
    assert size(by_magnitude(high)) <= budget
    while high - low > 100:
        middle = (low + high) // 2
        low, high = (low, middle) if size(by_magnitude(middle)) <= budget else (middle, high)
    count = high
    assert kl(done) - kl(state) < 0.8 * (kl(by_magnitude(count)) - kl(state))


def test_far_over_the_budget_it_leaves_the_file_to_the_dial(make_state):
    state = rounded(make_state())
    over = replace(state, limit=size(state) // 2)
    done = run_passes([ENCODE, PruneOnes()], over)
    assert done.tensors == state.tensors
    assert done.pruning == ()


def test_within_the_budget_nothing_goes(make_state):
    state = rounded(make_state(1_000_000))
    assert run_passes([ENCODE, PruneOnes()], state).tensors == state.tensors


def test_magnitude_pruning_zeroes_the_smallest_share_of_each_matrix(make_state):
    state = make_state()
    done = run_passes([Policy(RULES), PruneMagnitude(share=0.2)], state)
    for t in state.spec.tensors:
        before, after = state.weights[t.name], done.weights[t.name]
        if t.role == "vector":
            np.testing.assert_array_equal(before, after)
            continue
        gone = after == 0
        assert gone.mean() == pytest.approx(0.2, abs=0.01)
        assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
        np.testing.assert_array_equal(before[~gone], after[~gone])


@pytest.mark.parametrize("recipe", ["int5-mlp", "both"])
def test_magnitude_pruning_is_measured_at_the_same_steps(make_state, recipe):
    """Also where +-1 pruning comes on top: neither side of the comparison has that."""
    plain = loaded = load_recipe("int5-mlp")
    state = make_state(46_000)
    if recipe == "both":
        loaded = replace(plain, write=(*plain.write, PruneOnes(most=0.5)))
        state = make_state(40_500)
    done = packed(loaded, state)
    magnitude = done.pruning[0]
    at = replace(run_passes(plain.prepare, state), dial=done.dial)
    pruned, whole = (
        run_passes(plain.round, replace(at, weights=w)).size for w in (at.weights, state.weights)
    )
    assert magnitude.method == "magnitude"
    assert magnitude.bytes_saved == whole - pruned
    assert any("larger" in w for w in done.warnings) == (pruned > whole)


def test_magnitude_pruning_of_much_saves_and_of_little_costs(make_state):
    """With coarse steps the smallest weights are zero anyway; a large share is not."""
    saved = []
    for share in (0.003, 0.5):
        recipe = load_recipe("int5-mlp", [f"prune_magnitude.share={share}"])
        saved.append(packed(recipe, make_state(46_000)).pruning[0].bytes_saved)
    assert saved[1] > 1000 > saved[0]


@pytest.mark.parametrize("budget", [100_000, 150_000])
def test_nothing_goes_where_the_floats_themselves_were_tried(make_state, budget):
    """Between half the size of the exact floats and all of it, the search tries to keep them."""
    done = packed(load_recipe("gptq-lzma"), make_state(budget))
    assert len(done.blob) <= budget


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PruneMagnitude, {"share": 0.0}),
        (PruneMagnitude, {"share": 1.0}),
        (PruneOnes, {"most": 0.0}),
    ],
)
def test_options_that_make_no_sense(kind, options):
    with pytest.raises(UsageError):
        kind(**options)
