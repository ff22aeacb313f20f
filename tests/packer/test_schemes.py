"""The contract of every quantization scheme: usable steps for any weights, and a monotone dial."""

from dataclasses import fields, replace

import numpy as np
import pytest

from golfpack.packer.format.steps import spread_rows, step_matrix
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.clip import CLIPS, MIN_CLIP_K
from golfpack.packer.quantize.gptq import factorize, round_nearest
from golfpack.packer.quantize.schemes import FINEST, SCHEMES, IntN, Keep, RateDistortion, Ternary
from golfpack.packer.quantize.sensitivity import Sensitivity

RNG = np.random.default_rng(0)
VARIANTS = {
    "rd": RateDistortion(),
    "rd, coarse grains": RateDistortion(row_grain=8, col_grain=4),
    "rd, tempered": RateDistortion(row_power=0.3, col_power=0.8),
    "int6 sd": IntN(),
    "int8 rowmax": IntN(bits=8, clip="rowmax"),
    "int2 rowmax": IntN(bits=2, clip="rowmax"),
    "int4 in groups": IntN(bits=4, clip="rowmax", group=4),
    "int6 percentile": IntN(clip="percentile"),
    "int6 percentile, rows": IntN(clip={"id": "percentile", "per": "row"}),
    "int4 search": IntN(bits=4, clip={"id": "search", "objective": "plain"}),
    "int8 as the baseline": IntN(
        bits=8,
        clip={"id": "percentile", "percentiles": [0.9999984]},
        floor=1 / 127,
        baseline_rounding=True,
    ),
    "int8 as the baseline, no floor": IntN(bits=8, clip="rowmax", baseline_rounding=True),
    "int2 absmean": IntN(bits=2, clip="absmean"),
    "ternary": Ternary(group=4),
    "ternary rows": Ternary(group=0),
    # Whatever the tables hold besides is tried with its own options.
    **{f"{name}, as it comes": SCHEMES[name]() for name in SCHEMES if name != Keep.scheme_id},
    **{f"int6 {name}, as it comes": IntN(clip=name) for name in CLIPS if name != "search"},
}
NORMAL = RNG.standard_normal((12, 10)).astype(np.float32)
WEIGHTS = {
    "normal": NORMAL,
    "zero rows": NORMAL * (np.arange(12) % 3 > 0)[:, None].astype(np.float32),
    "all zero": np.zeros((4, 6), np.float32),
    "constant rows": np.repeat(NORMAL[:, :1], 10, axis=1),
    "one row": NORMAL[:1],
    "one column": NORMAL[:, :1],
    "one weight": NORMAL[:1, :1],
    "huge": NORMAL * np.float32(1e30),
    "tiny": NORMAL * np.float32(1e-30),
    "denormal": NORMAL * np.float32(1e-44),
    "mixed": NORMAL * np.exp2(RNG.integers(-40, 40, (12, 1))).astype(np.float32),
}
DIALS = (2.0**-60, 1e-3, 0.5, 1.0, 1.5, 8.0, 1e3, 2.0**60)


def sensitivity(rows: int, cols: int, kind: str) -> Sensitivity:
    weight = RNG.uniform(1e-12, 1, rows)
    if kind == "plain":
        return Sensitivity(None, weight, None, measured=False)
    x = RNG.standard_normal((2 * cols, cols))
    hessian = x.T @ x / len(x)
    if kind == "dead columns":
        hessian[:, ::2] = hessian[::2] = 0
    factor = factorize(hessian, damp=0.01)
    return Sensitivity(hessian, weight, factor, measured=True)


def field_of(scheme, w, s, dial=1.0):
    return scheme.steps(w, s, dial, scheme.find_clips(w, s))


@pytest.mark.parametrize("kind", ["plain", "measured", "dead columns"])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_finite_and_positive_and_grow_with_the_dial(variant, name, kind):
    scheme, w = VARIANTS[variant], WEIGHTS[name]
    s = sensitivity(*w.shape, kind)
    before = None
    for dial in DIALS:
        steps = field_of(scheme, w, s, dial)
        step = spread_rows(steps.row.astype(np.float64), steps.group, w.shape[1])
        step = np.broadcast_to(step, w.shape) * (1.0 if steps.col is None else steps.col)
        assert np.isfinite(step).all()
        assert (step > 0).all()
        if before is not None:
            assert (step >= before * (1 - 1e-6)).all(), "a larger dial made steps smaller"
        before = step


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variant", [v for v in VARIANTS if VARIANTS[v].limit is not None])
@pytest.mark.parametrize("name", WEIGHTS)
def test_codes_stay_within_the_limit(variant, name):
    scheme, w = VARIANTS[variant], WEIGHTS[name]
    limit = scheme.limit
    assert limit is not None
    steps = field_of(scheme, w, sensitivity(*w.shape, "plain"))
    codes = round_nearest(w, steps, limit)
    assert np.abs(codes).max(initial=0) <= limit
    if name in ("tiny", "denormal"):  # below every step that can be stored
        assert not codes.any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variant", [v for v in VARIANTS if VARIANTS[v].limit is not None])
def test_a_matrix_without_columns_has_a_step_a_row(variant):
    steps = field_of(VARIANTS[variant], NORMAL[:, :0], sensitivity(12, 0, "plain"))
    assert (steps.row_f16.shape, steps.group) == ((12,), None)
    t = QTensor(round_nearest(NORMAL[:, :0], steps, VARIANTS[variant].limit), steps)
    assert t.dequantize().shape == (12, 0)


def test_row_maximum_clips_nothing_and_uses_the_whole_range():
    scheme = IntN(bits=6, clip="rowmax")
    steps = field_of(scheme, NORMAL, sensitivity(12, 10, "plain"))
    codes = round_nearest(NORMAL, steps, None)
    np.testing.assert_array_equal(np.abs(codes).max(1), np.full(12, 31))


def test_sdclip_is_k_deviations_and_stops_at_its_floor():
    scheme = IntN(bits=6, clip={"id": "sd", "k": 12.85})
    deviation = NORMAL.astype(np.float64).std(axis=1)
    for dial, k in ((1.0, 12.85), (2.0, 25.7), (1e-9, MIN_CLIP_K)):
        steps = field_of(scheme, NORMAL, sensitivity(12, 10, "plain"), dial)
        np.testing.assert_allclose(steps.row, k * deviation / 31, rtol=2e-3)


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-3, 7e3])
@pytest.mark.parametrize("clip", ["sd", "rowmax"])
def test_a_constant_row_survives(clip, value):
    # It has no deviation to clip at.
    w = np.full((3, 10), value, np.float32)
    scheme = IntN(bits=6, clip=clip)
    steps = field_of(scheme, w, sensitivity(3, 10, "plain"))
    back = round_nearest(w, steps, scheme.limit) * steps.row[:, None]
    np.testing.assert_allclose(back, w, rtol=0.05)


def test_rd_steps_are_the_optimum_of_their_shape():
    # At the theory: step[r, i] = dial * U_ii / sqrt(row weight), up to half a grain and the dither.
    s = sensitivity(64, 16, "measured")
    weight = np.maximum(s.row_weight, 1e-4 * s.row_weight.mean())
    steps = RateDistortion(row_power=0.5, col_power=1.0).steps(
        np.ones((64, 16), "f4"), s, 0.25, None
    )
    assert s.factor is not None
    assert steps.col is not None
    ideal = np.multiply.outer(0.25 / np.sqrt(weight), s.factor.diagonal())
    off = np.log2(np.multiply.outer(steps.row, steps.col) / ideal)
    assert np.abs(off).max() <= (0.5 + 0.5) / 32 + 0.5 / 16 + 1e-6


def test_rows_that_are_normalised_once_looked_up_do_not_drown():
    # With s the power of uniform errors over the row's, s (1 + s)^2 is what it would be by itself.
    rng = np.random.default_rng(4)
    sizes = np.exp(np.linspace(-6, 6, 64))
    w = (rng.standard_normal((64, 16)) * sizes[:, None]).astype("f4")
    w[10] = 0
    s = sensitivity(64, 16, "measured")
    plain, steps = (
        RateDistortion().steps(w, replace(s, normalised=known), 0.25, None)
        for known in (False, True)
    )
    np.testing.assert_array_equal(steps.col_log, plain.col_log)

    def noise(steps):
        of_row = [np.square(m, dtype=np.float64).sum(1) for m in (step_matrix(steps, w.shape), w)]
        uniform, power = (np.delete(x, 10) for x in of_row)
        return uniform / 12 / power

    alone, found = noise(plain), noise(steps)
    assert alone.min() < 1e-3
    assert alone.max() > 1e3
    np.testing.assert_allclose(
        found * (1 + found) ** 2, alone, rtol=0.25
    )  # grains are of 2% a step
    assert abs(int(steps.row_log[10]) - int(plain.row_log[10])) <= 1


@pytest.mark.parametrize("dial", [1e-9, 1e-7, 1e-4, 1.0])
def test_rd_codes_never_leave_what_floats_can_tell(dial):
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((40, 30)) * np.exp(2 * rng.standard_normal((40, 1)))).astype("f4")
    hessian = np.diag(np.exp(3 * rng.standard_normal(30))).astype("f4")
    sensitivity = Sensitivity(
        hessian, np.exp(rng.standard_normal(40)), factorize(hessian, damp=0.01), True
    )
    steps = RateDistortion().steps(w, sensitivity, dial, None)
    largest = np.abs(w / step_matrix(steps, w.shape)).max()
    assert largest <= 1.1 * FINEST
    if dial < 1e-7:  # as fine as it gets: the steps no longer follow the dial
        assert largest > 0.9 * FINEST
        again = RateDistortion().steps(w, sensitivity, dial / 4, None)
        np.testing.assert_array_equal(steps.row_log, again.row_log)


def test_tempering_keeps_the_cost_of_a_tensor():
    # Whatever the exponents, sum of row_weight * (step / U)^2 is dial^2 a weight: what makes the
    # dial mean the same in every tensor.
    s = sensitivity(64, 16, "measured")
    assert s.factor is not None
    for scheme in (RateDistortion(), RateDistortion(row_power=0.3, col_power=0.8)):
        steps = scheme.steps(np.ones((64, 16), "f4"), s, 0.5, None)
        assert steps.col is not None
        scaled = np.multiply.outer(steps.row.astype(np.float64), steps.col / s.factor.diagonal())
        cost = np.mean(np.maximum(s.row_weight, 1e-4 * s.row_weight.mean())[:, None] * scaled**2)
        assert cost == pytest.approx(0.25, rel=0.06)


@pytest.mark.parametrize("scheme_id", sorted(SCHEMES))
def test_labels_are_short_and_options_have_defaults(scheme_id):
    scheme = SCHEMES[scheme_id]()
    assert 1 <= len(scheme.label) <= 8
    assert {f.name for f in fields(SCHEMES[scheme_id])} <= set(vars(scheme))
