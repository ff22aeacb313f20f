"""AWQ: factors that help or stay away, and folds that change no error's price."""

from dataclasses import replace

import numpy as np
import pytest

from golfpack.calib.stats import calibrate
from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.awq import Awq
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.quantize.awq import (
    find_factors,
    fold_uses,
    fold_weights,
    input_sizes,
    trial_error,
)
from golfpack.packer.quantize.schemes import IntN
from golfpack.packer.quantize.sensitivity import Sensitivity, combine_uses
from golfpack.packer.state import run_passes

RULES = (
    {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
    {"roles": ["mlp_in"], "scheme": "rd"},
    {"roles": ["mlp_out"], "scheme": "ternary", "group": 32},
    {"scheme": "int", "bits": 3, "clip": "rowmax"},
)
PROJ, VALUES = "blocks.0.attn.proj.weight", "blocks.0.attn.c_v.weight"
MLP_OUT, MLP_IN = "blocks.1.mlp.proj.weight", "blocks.1.mlp.fc.weight"


@pytest.fixture
def planned(make_state):
    return Policy(RULES).run(make_state())


def matrix_with_inputs(seed, cols=48, spread=1.5):
    """Weights, sizes of inputs that differ by `spread` nats, and the sensitivity they make."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((40, cols)).astype(np.float32)
    sizes = np.exp(spread * rng.standard_normal(cols))
    mix = np.eye(cols) + 0.1 * rng.standard_normal((cols, cols))
    hessian = (mix @ mix.T * np.outer(sizes, sizes)).astype(np.float32)
    return w, sizes, Sensitivity(hessian, np.exp(rng.standard_normal(40)), None, measured=True)


def test_input_sizes_are_floored_and_tied():
    sizes = input_sizes(np.array([4.0, 1.0, 0.0, 3.0]))
    np.testing.assert_allclose(sizes, [4.0, 1.0, 2e-4, 3.0])
    tied = input_sizes(np.array([4.0, 1.0, 9.0, 1.0]), (0, 0, 2, 2))
    np.testing.assert_allclose(tied, [2.0, 2.0, 3.0, 3.0])
    np.testing.assert_array_equal(input_sizes(np.zeros(3), (1, 1, 0)), np.ones(3))


@pytest.mark.parametrize("scheme", [IntN(3, "rowmax"), IntN(4, "sd", 16), IntN(4, "search")])
def test_factors_help_where_inputs_differ(scheme):
    w, sizes, known = matrix_with_inputs(0)
    found = find_factors(w, scheme, known, sizes, 20)
    plain = trial_error(w, scheme, known, np.zeros(48, np.int32))
    assert found.alpha > 0
    assert found.error_ratio < 0.95
    assert trial_error(w, scheme, known, found.logs) == pytest.approx(plain * found.error_ratio)
    # larger inputs get larger factors, around a geometric mean of 1
    assert (np.diff(found.logs[np.argsort(sizes)]) >= 0).all()
    assert abs(found.logs.mean()) <= 0.5


@pytest.mark.parametrize("seed", range(4))
def test_factors_never_raise_the_error_they_are_judged_by(seed):
    w, sizes, known = matrix_with_inputs(seed, spread=0.3 * seed)
    found = find_factors(w, IntN(4, "sd"), known, sizes[::-1], 10)  # sizes of the wrong columns
    assert found.error_ratio <= 1
    assert (found.alpha == 0) == (not found.logs.any())


def test_equal_inputs_and_empty_weights_need_no_factors():
    w, sizes, known = matrix_with_inputs(1)
    assert not find_factors(w, IntN(4), known, np.ones(48), 5).logs.any()
    nothing = find_factors(np.zeros_like(w), IntN(4), known, sizes, 5)
    assert not nothing.logs.any()
    assert nothing.error_ratio == 1


@pytest.mark.parametrize(("consumer", "producer"), [(PROJ, VALUES), (MLP_OUT, MLP_IN)])
def test_a_fold_keeps_the_expected_kl_of_errors(make_state, consumer, producer):
    state, rng = make_state(), np.random.default_rng(0)
    fold = next(f for f in state.spec.folds if f.consumer == consumer)
    assert fold.producer == producer
    logs = rng.integers(-40, 40, max(fold.rows) + 1)[list(fold.rows)].astype(np.int32)
    weights = {n: state.weights[n] for n in (consumer, producer)}
    folded = fold_weights(weights, fold, logs)
    uses = fold_uses(state.stats.uses, fold, logs, len(weights[producer]))
    assert uses.keys() == weights.keys()
    for name, w in weights.items():
        error = 0.1 * w * rng.standard_normal(w.shape)
        moved = error * (folded[name].astype(np.float64) / w)
        before, after = state.stats.uses[name], uses[name]
        for row_cov in (False, True):
            assert kl(after, moved, row_cov) == pytest.approx(kl(before, error, row_cov), rel=1e-4)


def kl(uses, error, row_cov):
    """Expected KL of an error, with independent rows or with their covariance."""
    hessian, row_weight = combine_uses(uses, len(error))
    cov = uses[0].output_cov if row_cov else None
    return Sensitivity(hessian, row_weight, None, True, cov).kl(error)


@pytest.mark.parametrize("gradients", [False, True])
def test_folded_statistics_are_those_of_the_folded_model(make_state, tiny, tiny_tokens, gradients):
    """The derivation, against calibration itself."""
    how = {"gradients": gradients, "seed": 0, "threads": 1}
    stats = calibrate(tiny.module(), tiny.spec, tiny_tokens, **how)
    state, rng = make_state(stats=stats), np.random.default_rng(1)
    weights, uses = dict(state.weights), dict(state.stats.uses)
    for fold in state.spec.folds:
        logs = rng.integers(-24, 24, max(fold.rows) + 1)[list(fold.rows)].astype(np.int32)
        uses |= fold_uses(uses, fold, logs, len(weights[fold.producer]))
        weights |= fold_weights(weights, fold, logs)
    model = tiny.module(weights)
    again = calibrate(model, tiny.spec, tiny_tokens, **how)
    producers = {f.producer for f in tiny.spec.folds}
    for name, measured in again.uses.items():
        for a, b in zip(measured, uses[name], strict=True):
            for field in ("hessian", "row_weight", "input_abs", "output_cov"):
                if field == "hessian" and gradients and name in producers:
                    continue  # its tokens count by the size of gradients that are other ones now
                x, y = getattr(a, field), getattr(b, field)
                assert (x is None) == (y is None)
                if x is not None:
                    np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4 * np.abs(x).max())


def test_the_pass_folds_where_it_can_and_stores_columns_elsewhere(planned):
    weights, stats = dict(planned.weights), planned.stats
    out = Awq().run(planned)
    folded = {f.consumer for f in planned.spec.folds}
    changed = {n for n in weights if out.weights[n] is not weights[n]}
    assert changed <= folded | {f.producer for f in planned.spec.folds}
    assert changed & folded
    assert not out.columns.keys() & folded
    # rd tensors and kept ones are nobody's consumers; the tied embedding is, as a head
    assert {n.split(".")[-2] for n in out.columns} <= {"tok_emb", "c_q", "c_k", "c_v"}
    assert out.columns
    assert all(c.dtype == np.int32 for c in out.columns.values())
    # the state that came in is as it was
    assert planned.weights == weights
    assert planned.stats is stats
    assert not planned.columns
    threaded = Awq().run(replace(planned, threads=2))
    assert all((threaded.weights[n] == w).all() for n, w in out.weights.items())


def test_the_search_sees_the_error_that_rounding_then_makes(planned):
    said = {}

    def notify(stage, _done, _total, note):
        if stage == "awq":
            name, *_, ratio = note.split()
            said[name] = float(ratio.removeprefix("x"))

    rest = (Sense(), Clip(), Steps(), Round(feedback=False))
    plain = run_passes(rest, planned)
    for fold in (False, True):
        out = run_passes((Awq(fold=fold), *rest), replace(planned, notify=notify))
        assert fold or out.weights is planned.weights
        for name, ratio in said.items():
            got = expected_kl(out, name) / expected_kl(plain, name)
            assert got == pytest.approx(ratio, abs=2e-3), name
        assert min(said.values()) < 0.95


def expected_kl(state, name):
    tensor = state.tensors[name]
    assert isinstance(tensor, QTensor)
    return state.sensitivity[name].kl(tensor.dequantize() - state.matrix(name))


def test_no_gradients_and_dead_weights_make_no_nan(planned):
    uses = {
        n: tuple(replace(u, row_weight=None, output_cov=None) for u in found)
        for n, found in planned.stats.uses.items()
    }
    weights = {**planned.weights, PROJ: np.zeros_like(planned.weights[PROJ])}
    state = replace(planned, weights=weights, stats=replace(planned.stats, uses=uses))
    out = run_passes((Awq(grid=4), Sense(), Clip(), Steps(), Round()), state)
    assert all(np.isfinite(t.dequantize()).all() for t in out.tensors.values())
    assert not out.weights[PROJ].any()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (({"scheme": "keep"},), "finds no tensor of fixed bit width"),
        (({"scheme": "int", "clip": {"id": "search", "trial": "feedback"}},), "by feedback"),
        (
            ({"scheme": "int", "bits": 8, "clip": "rowmax", "baseline_rounding": True},),
            "as the challenge's baseline",
        ),
    ],
)
def test_what_it_cannot_scale_is_refused(make_state, rules, says):
    with pytest.raises(UsageError, match=says):
        run_passes((Policy(rules), Awq()), make_state())


def test_it_needs_a_plan_calibration_and_its_place(make_state, planned):
    with pytest.raises(UsageError, match="'policy'"):
        run_passes((Awq(),), make_state())
    with pytest.raises(UsageError, match="needs calibration"):
        run_passes((Awq(),), replace(planned, stats=None))
    with pytest.raises(UsageError, match="stands behind it"):
        run_passes((Sense(), Awq()), planned)
    with pytest.raises(UsageError, match=r"awq\.grid"):
        Awq(grid=0)
