"""Low-rank correction: the best factors, coarse codes of them, and never a larger error."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import svdvals

from golfpack.base.convert import make
from golfpack.errors import UsageError
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.steps import f16_steps, spread_rows
from golfpack.packer.format.tensors import LowRank, QTensor
from golfpack.packer.passes.lowrank import Correct
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.quantize.gptq import factorize, round_nearest
from golfpack.packer.quantize.lowrank import FACTOR_CODINGS, low_rank
from golfpack.packer.state import run_passes

RULES = (
    {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
    {"scheme": "int", "bits": 2, "clip": "rowmax"},
)
RANK = 4


def an_error(seed, rows=60, cols=80):
    """An error with a few strong directions, and a Hessian's factor with activation order."""
    rng = np.random.default_rng(seed)
    error = 0.3 * rng.standard_normal((rows, cols))
    for size in (8.0, 4.0, 2.0):
        error += size * np.outer(rng.standard_normal(rows), rng.standard_normal(cols)) / 8
    x = rng.standard_normal((400, cols)) * np.exp(rng.standard_normal(cols))
    hessian = x.T @ x / 400
    return error, hessian, factorize(hessian, damp=0.0, order=np.argsort(-hessian.diagonal()))


@pytest.fixture(scope="module")
def rounded(make_state):
    """The tiny model in 2 bits, rounded to nearest: an error of which much has low rank."""
    passes = (Policy(RULES), Sense(), Clip(), Steps(), Round(feedback=False))
    return run_passes(passes, make_state())


def corrected(state):
    """Names of the tensors that have a correction."""
    return {
        n for n, t in state.tensors.items() if isinstance(t, QTensor) and t.correction is not None
    }


def expected_kl(state, name):
    return state.sensitivity[name].kl(state.tensors[name].dequantize() - state.matrix(name))


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (5, 80), (80, 5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_best_approximation_of_its_rank(shape, weighted):
    error, hessian, factor = an_error(0, *shape)
    a, b = low_rank(error, RANK, factor if weighted else None)
    assert a.shape == (shape[0], RANK)
    assert b.shape == (RANK, shape[1])
    # Eckart-Young: what is left are the other singular values, here of E L with H = L L^T.
    weight = hessian if weighted else np.eye(shape[1])
    left = error - a @ b
    rest = svdvals(error @ np.linalg.cholesky(weight))[RANK:]
    assert np.einsum("ri,ij,rj->", left, weight, left) == pytest.approx((rest**2).sum(), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_error_of_that_rank_goes_away(weighted):
    rng = np.random.default_rng(1)
    error = rng.standard_normal((40, RANK)) @ rng.standard_normal((RANK, 50))
    factor = factorize(an_error(1, cols=50)[1], damp=0.01) if weighted else None
    a, b = low_rank(error, RANK, factor)
    np.testing.assert_allclose(a @ b, error, atol=1e-4)


def test_signs_are_fixed_and_ranks_fall():
    error, _, _ = an_error(2)
    a, b = low_rank(error, RANK, None)
    assert (a.min(axis=0) == -np.abs(a).max(axis=0)).all()
    assert (np.diff(np.linalg.norm(a, axis=0)) < 0).all()
    other, _ = low_rank(-error, RANK, None)
    np.testing.assert_allclose(other, a)  # the sign of E went into B
    np.testing.assert_allclose(low_rank(-error, RANK, None)[1], -b)


def test_asymmetric_codes_are_the_records():
    a, b = low_rank(an_error(3)[0], RANK, None)
    packed = FACTOR_CODINGS["asymmetric"](a, b)
    assert packed.a.codes.shape == (RANK, 60)
    assert packed.b.codes.shape == (RANK, 80)
    assert set(np.unique(packed.a.codes)) == {-2, -1, 0, 1}
    assert len(set(packed.a.steps.row_f16)) == 1
    assert packed.b.steps.row_f16.shape == (RANK, 2)  # 64 columns and 16
    assert packed.b.steps.group == 64
    assert -8 <= packed.b.codes.min() <= packed.b.codes.max() <= 7
    step = np.abs(a).max() / 1.5
    np.testing.assert_allclose(packed.a.dequantize().T, a, atol=0.501 * step)
    largest = np.abs(b[:, 64:]).max(axis=1)
    np.testing.assert_allclose(packed.b.steps.row[:, 1], largest / 7.5, rtol=1e-3)


def test_symmetric_codes_use_all_they_have_and_round_to_nearest():
    a, b = low_rank(an_error(4)[0], RANK, None)
    packed = FACTOR_CODINGS["symmetric"](a, b)
    assert packed.a.steps.row_f16.shape == (RANK,)
    assert packed.b.steps.row_f16.shape == (RANK, 2)
    for found, exact in ((packed.a, a.T), (packed.b, b)):
        assert np.abs(found.codes).max(axis=1).tolist() == [7] * RANK
        steps = spread_rows(found.steps.row, found.steps.group, exact.shape[1])
        assert (np.abs(found.dequantize() - exact) <= 0.505 * steps).all()


@pytest.mark.parametrize("coding", FACTOR_CODINGS)
def test_zero_factors_are_zero_codes(coding):
    packed = FACTOR_CODINGS[coding](np.zeros((9, 2)), np.zeros((2, 70)))
    assert not packed.a.codes.any()
    assert (packed.b.steps.row > 0).all()
    w = np.ones((9, 70), np.float32)
    packed.add_to(w)
    assert (w == 1).all()


def test_dequantizing_adds_the_product():
    rng = np.random.default_rng(5)
    codes = [rng.integers(-7, 8, shape).astype(np.int32) for shape in ((2, 9), (2, 11), (9, 11))]
    a, b, plain = (QTensor(c, f16_steps(np.exp(rng.standard_normal(len(c))))) for c in codes)
    both = replace(plain, correction=LowRank(a, b)).dequantize()
    assert both.dtype == np.float32
    want = plain.dequantize() + a.dequantize().T @ b.dequantize()
    np.testing.assert_allclose(both, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighting", ["none", "hessian"])
@pytest.mark.parametrize("factors", FACTOR_CODINGS)
@pytest.mark.parametrize("select", ["frobenius", "hessian"])
def test_the_expected_kl_falls_where_a_correction_stays(rounded, weighting, factors, select):
    out = Correct(RANK, 3, select, weighting, factors).run(rounded)
    names = corrected(out)
    assert 0 < len(names) <= 3
    assert (len(names) < 3) == any("left out" in w for w in out.warnings)
    for name, tensor in rounded.tensors.items():
        if name in names:
            assert expected_kl(out, name) < expected_kl(rounded, name)
            assert out.tensors[name].codes is tensor.codes
        else:
            assert out.tensors[name] is tensor
    assert not corrected(rounded)
    # the same bits whatever the threads
    again = Correct(RANK, 3, select, weighting, factors).run(replace(rounded, threads=2))
    for name in names:
        assert (again.tensors[name].dequantize() == out.tensors[name].dequantize()).all()


def test_it_takes_the_largest_errors_by_either_measure(rounded):
    matrices = [n for n, t in rounded.tensors.items() if isinstance(t, QTensor)]
    by_norm = {
        n: np.linalg.norm(rounded.tensors[n].dequantize() - rounded.matrix(n)) for n in matrices
    }
    by_kl = {n: expected_kl(rounded, n) for n in matrices}
    for select, sizes in (("frobenius", by_norm), ("hessian", by_kl)):
        # of full rank but one, finely coded, every correction helps
        out = Correct(20, 2, select, "hessian", "symmetric").run(rounded)
        assert corrected(out) == set(sorted(matrices, key=sizes.__getitem__)[-2:])
    assert corrected(Correct(20, 99, weighting="hessian", factors="symmetric").run(rounded)) == set(
        matrices
    )


def test_what_needs_no_correction_gets_none_and_says_so(rounded):
    exact = {
        n: t.dequantize().reshape(rounded.weights[n].shape) for n, t in rounded.tensors.items()
    }
    out = Correct(top=2).run(replace(rounded, weights=exact))
    assert not corrected(out)
    assert [w for w in out.warnings if "2 of 2 corrections" in w]


def test_kept_floats_alone_are_left_alone(make_state):
    state = run_passes((Policy(({"scheme": "keep"},)), Steps(), Round()), make_state())
    out = run_passes((Correct(),), state)
    assert out.tensors == state.tensors
    assert not out.warnings


def test_ranks_and_counts_that_make_no_sense_are_refused(rounded, make_state):
    with pytest.raises(UsageError, match="more than 48 rows and columns"):
        Correct(rank=48).run(rounded)
    with pytest.raises(UsageError, match="rank is 0"):
        Correct(rank=0)
    with pytest.raises(UsageError, match="top is 0"):
        Correct(top=0)
    with pytest.raises(UsageError, match="factors cannot be 'int3'"):
        make(Correct, {"factors": "int3"}, "pass 'lowrank'")
    with pytest.raises(UsageError, match="'round' before it"):
        run_passes((Policy(RULES), Correct()), make_state())


def test_a_real_matrix_in_two_bits_loses_error(shared):
    c = load_checkpoint(shared / "checkpoints" / "golf_0.48M" / "final_model.pt")
    w = c.weights["blocks.1.mlp.fc.weight"]
    steps = f16_steps(np.abs(w).max(axis=1))
    tensor = QTensor(round_nearest(w, steps, 1), steps)
    error = w - tensor.dequantize()
    for pack in FACTOR_CODINGS.values():
        better = replace(tensor, correction=pack(*low_rank(error, RANK, None)))
        left = np.linalg.norm(w - better.dequantize())
        assert left < np.linalg.norm(error)
