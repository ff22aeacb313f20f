"""Passes: state in, changed copy out; policies that decide nothing, or not enough, are errors."""

from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import packed

from golfpack.errors import UsageError
from golfpack.packer.format.loader import loads
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import QTensor, Raw
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.quantize.schemes import IntN, Keep
from golfpack.packer.recipe import load_recipe, recipe_names
from golfpack.packer.state import run_passes

MIXED = (
    {"roles": ["vector"], "max_numel": 8, "scheme": "keep", "dtype": "exact"},
    {"roles": ["vector"], "scheme": "keep", "dtype": "bf16"},
    {"name": "blocks.0.*.c_?.weight", "scheme": "int", "bits": 5, "clip": "rowmax"},
    {"scheme": "rd"},
)

FEEDBACK = {"id": "percentile", "trial": "feedback"}


def frozen_copy(state):
    """Every array of a state, as bytes, to see that nothing wrote to it."""
    stats = state.stats
    assert stats is not None
    arrays = [*state.weights.values(), *stats.vector_fisher.values()]
    arrays += [a for uses in stats.uses.values() for u in uses for a in vars(u).values()]
    return [a.tobytes() for a in arrays if isinstance(a, np.ndarray)]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_mutates_nothing_and_repeats_itself(name, make_state):
    state = make_state(34_000)
    before, given = frozen_copy(state), {f.name: getattr(state, f.name) for f in fields(state)}
    first = packed(load_recipe(name), state)
    again = packed(load_recipe(name), make_state(34_000, threads=2))
    assert first.blob == again.blob
    assert frozen_copy(state) == before
    assert all(getattr(state, key) is value for key, value in given.items())
    assert list(first.tensors) == [t.name for t in state.spec.tensors]


def test_the_first_rule_that_matches_decides(make_state):
    plan = Policy(MIXED).run(make_state()).plan
    assert plan["blocks.0.attn.q_gain"] == Keep("exact")
    assert plan["blocks.1.mlp_scale"] == Keep("bf16")
    assert plan["blocks.0.attn.c_q.weight"] == IntN(5, "rowmax")
    assert plan["blocks.1.attn.c_q.weight"].scheme_id == "rd"
    assert list(plan) == [t.name for t in make_state().spec.tensors]


@pytest.mark.parametrize(("top", "count"), [(3, 3), (0.25, 3), (0.01, 1), (99, 12)])
@pytest.mark.parametrize("rank", ["trace", "error"])
def test_a_ranked_rule_takes_the_most_sensitive(make_state, rank, top, count):
    state = make_state()
    ranked = {"name": "blocks.*.weight", "rank": rank, "top": top, "scheme": "int", "bits": 6}
    rest = {"name": "blocks.*.weight", "scheme": "int", "bits": 5, "optional": True}
    plan = Policy((ranked, rest, {"scheme": "rd"})).run(state).plan
    taken = [n for n, s in plan.items() if s == IntN(6)]
    assert len(taken) == count
    if rank == "trace":
        trace = {n: state.stats.uses[n][0].hessian.trace() for n in plan if n.startswith("blocks.")
                 and n.endswith(".weight")}  # fmt: skip
        assert min(trace[n] for n in taken) >= max(
            (t for n, t in trace.items() if n not in taken), default=0.0
        )


def test_ranking_by_error_is_error_per_byte(make_state):
    # The same matrix twice as sensitive outranks itself.
    state = make_state()
    name, other = "blocks.0.mlp.fc.weight", "blocks.1.mlp.fc.weight"
    use = state.stats.uses[name][0]
    uses = {**state.stats.uses, other: (replace(use, row_weight=2 * use.row_weight),)}
    weights = {**state.weights, other: state.weights[name]}
    state = replace(state, weights=weights, stats=replace(state.stats, uses=uses))
    rule = {"name": "*.mlp.fc.weight", "rank": "error", "top": 1, "scheme": "int", "bits": 6}
    plan = Policy((rule, {"scheme": "rd"})).run(state).plan
    assert isinstance(plan[other], IntN)
    assert not isinstance(plan[name], IntN)


@pytest.mark.parametrize("scheme", ["rd", "int"])
def test_what_no_gradient_reaches_ranks_last_by_error(make_state, scheme):
    state = make_state()
    name = "blocks.0.mlp.fc.weight"
    use = state.stats.uses[name][0]
    dead = replace(use, row_weight=0 * use.row_weight)
    state = replace(state, stats=replace(state.stats, uses={**state.stats.uses, name: (dead,)}))
    rule = {"name": "*.mlp.*", "rank": "error", "top": 3, "scheme": scheme}
    with np.errstate(invalid="raise", divide="raise"):
        plan = Policy((rule, {"scheme": "keep"})).run(state).plan
    kept = [n for n, s in plan.items() if ".mlp." in n and isinstance(s, Keep)]
    assert kept == [name]


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_trips_over_degenerate_weights(name, make_state):
    """Zero rows, zero and constant matrices, a single huge weight: finite, and within the budget."""
    state = make_state(40_000)
    weights = {n: w.copy() for n, w in state.weights.items()}
    weights["blocks.0.attn.c_q.weight"][::2] = 0
    weights["blocks.0.attn.proj.weight"][:] = 0
    weights["blocks.0.mlp.fc.weight"][:] = 0.25
    weights["blocks.1.mlp.fc.weight"][:, ::3] = 0
    weights["blocks.1.mlp.proj.weight"][3, 5] = 1e4
    weights["blocks.1.attn_scale"][:] = 0
    done = packed(load_recipe(name), replace(state, weights=weights))
    assert len(done.blob) <= 40_000
    back = loads(done.blob).weights()
    assert all(np.isfinite(w).all() for w in back.values())
    assert not back["blocks.0.attn.proj.weight"].any()
    if name != "rd":  # whose rows take over each other's errors
        assert not back["blocks.0.attn.c_q.weight"][::2].any()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ((), "no policy rule matches tensor"),
        (({"roles": ["embed"], "scheme": "rd"},), "no policy rule matches tensor"),
        (({"roles": ["head"], "scheme": "rd"}, {"scheme": "rd"}), "matches no tensor"),
        (({"scheme": "rd"}, {"roles": ["embed"], "scheme": "rd"}), "matches no tensor"),
        (({"name": "nothing.*", "scheme": "rd"}, {"scheme": "rd"}), "matches no tensor"),
        (({"roles": ["mlp"], "scheme": "rd"},), "unknown role 'mlp'"),
        (({"roles": "mlp_in", "scheme": "rd"},), "roles cannot be 'mlp_in'"),
        (({"roles": [["head"]], "scheme": "rd"},), "roles[0] cannot be ['head']"),
        (({"name": 5, "scheme": "rd"},), "name cannot be 5"),
        (({"max_numel": "x", "scheme": "rd"},), "max_numel cannot be 'x'"),
        (({"scheme": "int9"},), "known schemes"),
        (({"roles": ["embed"]},), "known schemes"),
        (({"scheme": "int", "bit": 6},), "has no option 'bit'"),
        (({"scheme": "int", "bits": 1},), "bits"),
        (({"scheme": "int", "bits": 33},), "bits"),
        (({"scheme": "int", "bits": "six"},), "bits"),
        (({"scheme": "int", "clip": "median"},), "known clips"),
        (({"scheme": "int", "clip": {"id": "sd", "k": -1.0}},), "k is -1.0"),
        (({"scheme": "int", "clip": {"id": "sd", "kk": 1.0}},), "did you mean 'k'"),
        (({"scheme": "int", "clip": {"id": "percentile", "percentiles": []}},), "percentiles"),
        (({"scheme": "int", "clip": {"id": "search", "trial": "feedback"}, "group": 4},), "group"),
        (({"scheme": "int", "baseline_rounding": True, "group": 4},), "baseline_rounding"),
        (({"scheme": "int", "group": -1},), "group"),
        (({"scheme": "rd", "rank": "trace"},), "rank without top"),
        (({"scheme": "rd", "top": 3},), "top without rank"),
        (({"scheme": "rd", "rank": "trace", "top": 0},), "top 0"),
        (({"scheme": "rd", "rank": "trace", "top": 3.7},), "top 3.7"),
        (({"scheme": "rd", "rank": "trace", "top": 1.0},), "top 1.0"),
        (({"scheme": "keep", "rank": "error", "top": 1},), "by error what it keeps"),
        (({"scheme": "int", "clip": FEEDBACK, "rank": "error", "top": 1},), "tries by feedback"),
        (({"scheme": "ternary", "group": -1},), "group is -1"),
        (({"roles": ["vector"], "rank": "trace", "top": 3, "scheme": "rd"},), "measured nothing"),
        (({"scheme": "keep", "dtype": "f8"},), "dtype"),
        (({"scheme": "rd", "row_grain": 0},), "row_grain"),
        (("rd",), "rule"),
    ],
)
def test_a_policy_that_makes_no_sense(make_state, rules, says):
    with pytest.raises(UsageError) as e:
        run_passes([Policy(rules), Sense(), Clip(), Steps(), Round()], make_state())
    assert says in f"{e.value.message} {e.value.hint}"
    assert e.value.hint


@pytest.mark.parametrize("damp", [-0.1, 11.0, float("nan")])
def test_damp_out_of_range(make_state, damp):
    with pytest.raises(UsageError, match="damp"):
        run_passes([Policy(MIXED), Sense(damp=damp)], make_state())


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "gzip"},
        {"codec": {"id": "zlib", "speed": 9}},
        {"codec": "zlib", "order": "diagonal"},
        {"codec": "zlib", "filters": ("delta",)},
        {"side_codec": "gzip"},
        {"side_codec": "rans"},
    ],
)
def test_an_encoding_that_makes_no_sense_is_the_users_mistake(make_state, options):
    rounded = run_passes([Policy(MIXED), Sense(), Clip(), Steps(), Round()], make_state())
    with pytest.raises(UsageError):
        run_passes([Encode(**options)], rounded)


def test_round_makes_what_the_plan_says(make_state):
    state = run_passes([Policy(MIXED), Sense(), Clip(), Steps(), Round()], make_state(dial=2e-5))
    for name, tensor in state.tensors.items():
        scheme, w = state.plan[name], state.weights[name]
        if isinstance(scheme, Keep):
            assert isinstance(tensor, Raw)
            back = tensor.dequantize()
            np.testing.assert_allclose(back, w, rtol=2.0**-8)
            assert (scheme.dtype != "exact") or np.array_equal(back, w)
            assert tensor.dtype == "bf16" or scheme.dtype == "exact"
        else:
            assert isinstance(tensor, QTensor)
            error = np.linalg.norm(tensor.dequantize() - state.matrix(name))
            assert error < 0.3 * np.linalg.norm(w), name


def test_feedback_lowers_the_predicted_kl_of_every_matrix(make_state):
    steps = run_passes(
        [Policy(({"scheme": "rd"},)), Sense(), Clip(), Steps()], make_state(dial=0.02)
    )

    def kl(feedback: bool) -> dict[str, float]:
        state = run_passes([Round(feedback=feedback)], steps)
        errors = {n: t.dequantize() - state.matrix(n) for n, t in state.tensors.items()}
        return {n: state.sensitivity[n].kl(e) for n, e in errors.items() if n in state.stats.uses}

    with_feedback, without = kl(True), kl(False)
    assert with_feedback
    for name in with_feedback:
        assert with_feedback[name] < without[name], name


def test_an_error_of_ours_names_its_pass(make_state):
    class Broken(Policy):
        name = "broken"

        def run(self, state):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as e:
        run_passes([Policy(MIXED), Broken()], make_state())
    assert "broken" in e.value.__notes__[0]
    assert "policy" in e.value.__notes__[0]


def test_a_raised_damp_is_a_counted_warning(make_state, tiny_stats):
    state = run_passes([Policy(MIXED), Sense(damp=0.0)], make_state())
    raised = [n for n, s in state.sensitivity.items() if s.factor is not None and s.factor.damp > 0]
    assert len(state.warnings) == len(raised)
    assert all(any(w.startswith(n) for w in state.warnings) for n in raised)
    assert state.warn(state.warnings[0]) is state if raised else not state.warnings


@pytest.mark.parametrize("name", ["tok_emb.weight", "blocks.0.mlp.fc.weight"])  # kept; quantized
def test_what_float16_cannot_hold_is_named(name, make_state):
    weights = {n: w.copy() for n, w in make_state().weights.items()}
    weights[name][0, 0] = 1e30
    with pytest.raises(UsageError, match=rf"{name} holds 1e\+30.*float16") as e:
        packed(load_recipe("int5-mlp"), make_state(60_000, weights=weights, stats=None))
    assert "bf16" in str(e.value.hint)


def test_the_largest_float16_step_is_taken(make_state):
    weights = {n: w.copy() for n, w in make_state().weights.items()}
    weights["blocks.0.mlp.fc.weight"][0, 0] = 15 * 65_504  # int5's largest code
    state = packed(load_recipe("int5-mlp"), make_state(60_000, weights=weights, stats=None))
    assert state.tensors["blocks.0.mlp.fc.weight"].dequantize()[0, 0] == 15 * 65_504


def test_steps_of_an_embedding_that_is_normalised_keep_to_what_is_left_of_its_rows(make_state):
    found = {}
    for norms in (True, False):
        passes = [Policy(({"scheme": "rd"},)), Sense(norms=norms), Steps()]
        state = run_passes(passes, make_state(dial=0.05))
        known = {n: s.normalised for n, s in state.sensitivity.items()}
        assert known.pop("tok_emb.weight") is norms
        assert not any(known.values())
        found[norms] = {n: step_matrix(s, state.matrix(n).shape) for n, s in state.steps.items()}
    for name, steps in found[True].items():
        if name == "tok_emb.weight":
            assert np.mean(steps < 0.9 * found[False][name]) > 0.5
        else:
            np.testing.assert_array_equal(steps, found[False][name])
