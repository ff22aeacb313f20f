"""Pruning: exact prices, exact budgets, and cheaper than magnitude."""

from dataclasses import replace

import numpy as np
import pytest

from golfpack.errors import UsageError
from golfpack.packer.ir import QTensor
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.prune import PruneMagnitude, PruneOnes
from golfpack.packer.passes.quantise import Clip, Round, Sense, Steps
from golfpack.packer.quantize.prune import order_ones
from golfpack.packer.recipe import load_recipe
from golfpack.packer.state import run_passes

RULES = (
    {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
    {"scheme": "int", "bits": 6, "clip": {"id": "sd", "k": 16.0}, "auto": False},
)
ENCODE = load_recipe("gptq-lzma").passes[-1].body[-1].body  # the recipe's encode pass


def rounded(state, *, two_sided=False):
    return run_passes([Policy(RULES), Sense(two_sided=two_sided), Clip(), Steps(), Round()], state)


def quantised(state):
    return {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}


def kl(state):
    return sum(
        state.sensitivity[n].kl(t.dequantize() - state.matrix(n))
        for n, t in quantised(state).items()
    )


def size(state):
    return len(run_passes(ENCODE, state).blob)


@pytest.mark.parametrize("two_sided", [False, True])
def test_the_price_of_a_code_is_what_zeroing_it_adds(make_state, two_sided):
    state = rounded(make_state(), two_sided=two_sided)
    tensors, before = quantised(state), kl(state)
    weights = {n: state.matrix(n) for n in tensors}
    # One helping that takes a single code: its price alone decided, so no other could be cheaper.
    ones = order_ones(tensors, weights, state.sensitivity, 1e-9, 1)
    assert len(ones.position) == 1

    def added(tensor: str, position: int) -> float:
        codes = tensors[tensor].codes.copy()
        codes.reshape(-1)[position] = 0
        one = {**state.tensors, tensor: replace(tensors[tensor], codes=codes)}
        return kl(replace(state, tensors=one)) - before

    best = added(ones.names[ones.tensor[0]], ones.position[0]) / ones.saved_bits[0]
    rng = np.random.default_rng(0)
    for name in rng.choice(list(tensors), 8):
        counts = {s: max(int(np.sum(tensors[name].codes == s)), 1) for s in (-1, 0, 1)}
        for position in rng.choice(np.flatnonzero(np.abs(tensors[name].codes) == 1), 8):
            bits = np.log2(counts[0] / counts[int(tensors[name].codes.reshape(-1)[position])])
            assert bits <= 0 or added(name, position) / bits >= best - 1e-12


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03])
def test_the_file_ends_just_below_the_budget(make_state, share):
    state = rounded(make_state())
    whole = size(state)
    budget = int((1 - share) * whole)
    done = run_passes(
        [PruneOnes(most=0.7, body=ENCODE)],
        replace(state, budget=replace(state.budget, total=budget)),
    )
    assert len(done.blob) <= budget
    assert budget - len(done.blob) <= max(0.001 * budget, 16)
    assert done.pruning.zeroed > 0
    for name, t in quantised(done).items():
        changed = t.codes != state.tensors[name].codes
        assert (np.abs(state.tensors[name].codes[changed]) == 1).all()
        assert (t.codes[changed] == 0).all()
    # Never more than needed: with a few codes fewer the file would not fit.
    assert done.pruning.zeroed <= 8 * 4 * (whole - len(done.blob)) + 64


def test_it_costs_less_than_zeroing_the_smallest_codes(make_state):
    state = rounded(make_state())
    budget = int(0.97 * size(state))
    done = run_passes(
        [PruneOnes(most=0.7, body=ENCODE)],
        replace(state, budget=replace(state.budget, total=budget)),
    )

    def by_magnitude(count: int):
        """The `count` +-1 codes with the smallest steps go, as the records have it."""
        every = [
            (np.abs(t.dequantize()).reshape(-1)[p := np.flatnonzero(np.abs(t.codes) == 1)], n, p)
            for n, t in quantised(state).items()
        ]
        cut = np.sort(np.concatenate([v for v, _, _ in every]))[count]
        tensors = dict(state.tensors)
        for value, name, position in every:
            codes = tensors[name].codes.copy()
            codes.reshape(-1)[position[value < cut]] = 0
            tensors[name] = replace(tensors[name], codes=codes)
        return replace(state, tensors=tensors)

    count = next(c for c in range(200, 20_000, 200) if size(by_magnitude(c)) <= budget)
    assert kl(done) - kl(state) < 0.8 * (kl(by_magnitude(count)) - kl(state))


def test_far_over_the_budget_it_leaves_the_file_to_the_dial(make_state):
    state = rounded(make_state())
    over = replace(state, budget=replace(state.budget, total=size(state) // 2))
    done = run_passes([PruneOnes(body=ENCODE)], over)
    assert done.tensors == state.tensors
    assert done.pruning is None


def test_within_the_budget_nothing_goes(make_state):
    state = rounded(make_state(1_000_000))
    assert run_passes([PruneOnes(body=ENCODE)], state).tensors == state.tensors


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


def test_the_report_says_when_pruning_made_the_file_larger(make_state):
    done = run_passes(load_recipe("int5-mlp").passes, make_state(46_000))
    pruning = done.pruning
    assert pruning.bytes_without is not None
    grew = len(done.blob) > pruning.bytes_without
    assert any("larger" in w for w in done.warnings) == grew
    whole = load_recipe("int5-mlp").passes
    without = run_passes([p for p in whole if p.name != "prune_magnitude"], make_state(46_000))
    assert without.pruning is None


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
