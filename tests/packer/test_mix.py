"""Mixed precision: never worse than one width, and the solvers agree."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import packed

from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes import mix as mix_module
from golfpack.packer.passes.mix import Mix
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Sense
from golfpack.packer.recipe import load_recipe
from golfpack.packer.state import run_passes

CLIPS = {"sd": {"id": "sd", "k": 12.85}, "rowmax": "rowmax"}


def rules(bits, clip):
    return (
        {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
        {"scheme": "int", "bits": bits, "clip": CLIPS[clip]},
    )


def built(state, clip, bits=6, mix=()):
    """The state after a whole build under brotli."""
    recipe = load_recipe("mixed-int5-int6")
    return packed(
        replace(recipe, prepare=(Policy(rules(bits, clip)), Sense(), *mix, Clip())), state
    )


def error(state):
    return sum(
        state.sensitivity[n].kl(t.dequantize() - state.matrix(n))
        for n, t in state.tensors.items()
        if isinstance(t, QTensor)
    )


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("budget", [17_000, pytest.param(22_000, marks=pytest.mark.slow), 28_000])
def test_mixed_precision_is_never_worse_than_a_single_width(make_state, clip, budget):
    widths = (4, 6, 8)
    singles = [built(make_state(budget), clip, bits) for bits in widths]
    mixed = built(make_state(budget), clip, mix=[Mix(widths)])
    assert len(mixed.blob) <= budget
    # Real sizes differ by what the search tolerates, 0.2% of the budget: 0.4% of error, and some luck.
    assert error(mixed) <= 1.01 * min(map(error, singles))
    assert len(set(mixed.allocation.widths.values())) > 1


def test_the_solvers_agree_and_the_frontier_bounds_them(make_state):
    # Near the smallest width of all the two part ways: a quarter apart at 20,000 bytes.
    state = run_passes([Policy(rules(6, "sd")), Sense(), Mix((4, 6, 8))], make_state(22_000))
    a = state.allocation
    assert a is not None
    assert a.exact == a.chosen
    assert a.exact[1] <= a.lagrangian[1] <= 1.01 * a.exact[1]
    assert state.warnings == ()
    assert max(a.chosen[0], a.exact[0]) <= a.budget
    sizes, errors = np.array(a.frontier).T
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(errors) < 0).all()
    assert a.lagrangian[1] <= 1.0001 * errors[sizes <= a.budget].min()
    assert a.exact[1] >= np.interp(a.exact[0], sizes, errors) * (1 - 1e-9)
    assert {n: s.bits for n, s in state.plan.items() if n in a.widths} == a.widths


def test_a_choice_that_is_not_proven_is_not_taken(make_state, monkeypatch):
    """A better choice of the exact solver counts only with its proof: without, a warning."""
    passes = [Policy(rules(6, "sd")), Sense(), Mix((4, 6, 8))]

    def solved(bound):
        def milp(menu, budget, seconds):
            simple = mix_module.lagrangian(menu, budget)
            return replace(simple, error=simple.error / 2, bound=bound * simple.error)

        monkeypatch.setattr(mix_module, "milp", milp)
        return run_passes(passes, make_state(20_000))

    proven, open_ = solved(0.5), solved(0.4)
    assert proven.allocation.chosen == proven.allocation.exact
    assert proven.warnings == ()
    assert open_.allocation.chosen[1] == 2 * open_.allocation.exact[1]
    assert "did not prove" in open_.warnings[0]


def test_the_record_recipe_leaves_the_embedding_alone(make_state):
    done = packed(load_recipe("mixed-int5-int6"), make_state(22_000))
    assert done.plan["tok_emb.weight"].bits == 8
    assert set(done.allocation.widths.values()) <= {5, 6}
    assert "tok_emb.weight" not in done.allocation.widths


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ({"widths": (6,)}, "mix.widths"),
        ({"widths": (6, 6)}, "mix.widths"),
        ({"widths": (6, 9)}, "has 9"),
        ({"roles": ("mlp",)}, "unknown role"),
    ],
)
def test_options_that_make_no_sense(mix, says):
    with pytest.raises(UsageError, match=says):
        Mix(**mix)


def test_mix_needs_something_to_choose_a_budget_and_its_place(make_state):
    with pytest.raises(UsageError, match="nothing to choose"):
        run_passes([Policy(({"scheme": "rd"},)), Sense(), Mix()], make_state())
    with pytest.raises(UsageError, match="not a target KL"):
        run_passes([Policy(rules(6, "sd")), Sense(), Mix()], make_state(None))
    with pytest.raises(UsageError, match="stands behind 'clip'"):
        run_passes([Policy(rules(6, "sd")), Sense(), Clip(), Mix()], make_state())
