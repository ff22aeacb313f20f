"""R(D) of the Gaussian model: closed forms, and where the scalar recipe sits above it."""

import numpy as np
import pytest

from golfpack.packer.format.rans.codes import encode_codes
from golfpack.packer.format.rans.context_model import CodeMatrix
from golfpack.packer.format.tensors import QTensor, States
from golfpack.packer.quantize.gptq import factorize, round_feedback
from golfpack.packer.quantize.listsearch import scales_of
from golfpack.packer.quantize.rd_bound import gaussian_rate, two_sided_rate
from golfpack.packer.quantize.schemes import RateDistortion
from golfpack.packer.quantize.sensitivity import Sensitivity


def identity(rows: int, cols: int) -> Sensitivity:
    hessian = np.eye(cols)
    return Sensitivity(hessian, np.ones(rows), factorize(hessian, damp=0.0), True)


def test_white_weights_have_the_closed_form():
    w = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    for mse in (0.5, 0.01, 1e-5):
        expected = np.mean(0.5 * np.log2(np.square(w).mean(1) / mse))
        assert gaussian_rate(w, identity(64, 256), mse * w.size) == pytest.approx(
            expected, rel=0.02
        )
    assert gaussian_rate(w, identity(64, 256), 2.0 * w.size) == 0.0


def test_water_fills_over_eigenvalues_and_row_weights():
    w = np.ones((2, 2), np.float32)
    s = Sensitivity(np.diag([4.0, 1.0]), np.array([1.0, 4.0]), None, True)
    # Weighted variances 4, 1, 16, 4; at theta = 2 the second drowns: D = 2 + 1 + 2 + 2.
    expected = 0.5 * (np.log2(2) + 0 + np.log2(8) + np.log2(2)) / 4
    assert gaussian_rate(w, s, 7.0) == pytest.approx(expected, rel=1e-6)


def test_two_sides_fill_over_both_eigenbases():
    rng = np.random.default_rng(2)
    turns = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (2, 3)]
    b, h = (t @ np.diag(d) @ t.T for t, d in zip(turns, ([4.0, 1.0], [1.0, 2.0, 9.0]), strict=True))
    w = (turns[0] @ np.ones((2, 3)) @ turns[1].T).astype(np.float32)
    s = Sensitivity(h, np.diag(b), None, True, b)
    # Weighted variances 4, 8, 36 and 1, 2, 9; at theta = 3 two drown: D = 4 x 3 + 1 + 2.
    expected = 0.5 * np.log2(np.array([4, 8, 36, 9]) / 3).sum() / 6
    assert two_sided_rate(w, s, 15.0) == pytest.approx(expected, rel=1e-5)
    assert two_sided_rate(w, s, 100.0) == 0.0
    # Where neither side depends on anything, it is the bound of independent rows.
    plain = Sensitivity(
        np.diag([1.0, 2.0, 9.0]), np.array([4.0, 1.0]), None, True, np.diag([4.0, 1.0])
    )
    ones = np.ones((2, 3), np.float32)
    assert two_sided_rate(ones, plain, 15.0) == pytest.approx(gaussian_rate(ones, plain, 15.0))
    assert two_sided_rate(ones, Sensitivity(h, np.ones(2), None, True), 15.0) is None


@pytest.mark.parametrize("dial", [0.22, 0.4])
def test_the_scalar_recipe_sits_a_quarter_bit_above_shannon(dial):
    """Ideal entropy-coded scalar quantization is 0.2546 bit above R(D); coder and steps included."""
    shape = (768, 768)
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    s = identity(*shape)
    assert s.factor is not None
    steps = RateDistortion().steps(w, s, dial, None)
    codes = round_feedback(w, steps, s.factor, None)
    assert steps.col_log is not None
    payload = encode_codes([codes], [CodeMatrix(shape, steps.row_log, steps.col_log)])
    error = codes * steps.row[:, None] * steps.col - w
    bits = 8 * len(payload) / w.size
    assert 2.9 < bits < 4.3
    gap = bits - gaussian_rate(w, s, float(np.square(error).sum()))
    assert 0.25 < gap < 0.27


@pytest.mark.parametrize(("dial", "low"), [(0.5, 2.95), (0.25, 3.95)])
def test_eight_states_come_within_a_tenth_of_a_bit(dial, low):
    shape = (512, 512)
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    s = identity(*shape)
    assert s.factor is not None
    steps = RateDistortion().steps(w, s, dial, None)
    states = States(scales_of(w, steps))
    codes = round_feedback(w, steps, s.factor, None, None, 0.05, 1, states)
    found = QTensor(codes, steps, states=states)
    error = found.dequantize() - w
    bits = 8 * len(encode_codes([codes], [found.known], scales=[states.scales])) / w.size
    assert low < bits < low + 0.2
    assert bits - gaussian_rate(w, s, float(np.square(error).sum())) < 0.1
