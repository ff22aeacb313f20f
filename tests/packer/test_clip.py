"""Clip rules: the records' published figures, bit for bit where there is a file to compare with."""

import io
import zlib

import brotli
import numpy as np
import pytest
import torch

from golfpack.errors import UsageError
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.steps import f16_steps
from golfpack.packer.quantize.clip import RECORD_PERCENTILES, make_clip, row_quantile
from golfpack.packer.quantize.gptq import factorize, round_feedback, round_nearest
from golfpack.packer.quantize.schemes import IntN
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rate import entropy
from golfpack.packer.recipe import load_recipe
from golfpack.packer.state import PackState, run_passes

RNG = np.random.default_rng(0)


def sensitivity(rows: int, cols: int, seed: int = 0) -> Sensitivity:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * cols, cols)) * np.exp(rng.standard_normal(cols))
    h = x.T @ x / len(x)
    return Sensitivity(h, rng.uniform(0.1, 1, rows), factorize(h, damp=0.01), measured=True)


def row_errors(w, clip, limit, s, feedback=False):
    steps = f16_steps(clip / limit)
    codes = (
        round_feedback(w, steps, s.factor, limit) if feedback else round_nearest(w, steps, limit)
    )
    e = codes * steps.row.astype(np.float64)[:, None] - w
    return np.einsum("ri,ij,rj->r", e, s.hessian, e), np.einsum("ri,ri->r", e, e)


@pytest.mark.parametrize(
    ("bits", "k", "published"), [(6, 12.85, 3.33), (6, 8.0, 4.01), (5, 7.0, 3.16)]
)
def test_sdclip_on_gaussian_rows_has_the_published_entropy(bits, k, published):
    # parameter_golf.md: what a step of k sigma / (2^(b-1) - 1) costs, and how close brotli comes.
    w = RNG.standard_normal((2048, 512)).astype(np.float32)
    scheme = IntN(bits=bits, clip={"id": "sd", "k": k})
    s = Sensitivity(None, np.ones(len(w)), None, measured=False)
    codes = round_nearest(w, scheme.steps(w, s, 1.0, scheme.find_clips(w, s)), scheme.limit)
    assert entropy(codes) == pytest.approx(published, abs=0.02)
    coded = len(brotli.compress(codes.astype(np.int8).tobytes(), quality=11, lgwin=24))
    assert 8 * coded / codes.size == pytest.approx(entropy(codes), rel=0.02)


def test_the_baselines_export_is_reproduced_bit_for_bit(shared):
    """`final_model.int8.ptz` is the challenge's own export of `final_model.pt`."""
    folder = shared / "checkpoints" / "golf_0.48M"
    published = torch.load(
        io.BytesIO(zlib.decompress((folder / "final_model.int8.ptz").read_bytes())),
        weights_only=True,
    )
    checkpoint = load_checkpoint(folder / "final_model.pt")
    # The export quantizes by size (at most 65,536 weights stay float16), the recipe by role: ask the
    # recipe's passes for the tensors that the export quantized.
    recipe = load_recipe("int8-zlib")
    state = PackState(checkpoint.spec, checkpoint.weights, None)
    tensors = run_passes((*recipe.prepare, *recipe.quantize), state).tensors
    assert published["quantized"]
    for name, codes in published["quantized"].items():
        np.testing.assert_array_equal(tensors[name].codes, codes.numpy(), err_msg=name)
        np.testing.assert_array_equal(
            tensors[name].steps.row_f16, published["scales"][name].numpy(), err_msg=name
        )


@pytest.mark.parametrize("q", [*RECORD_PERCENTILES, 0.9999984, 0.3])
def test_row_quantile_is_torchs(q):
    w = RNG.standard_normal((7, 257)).astype(np.float32)
    expected = torch.quantile(torch.from_numpy(np.abs(w)), q, dim=1).numpy()
    np.testing.assert_array_equal(row_quantile(w, q), expected)


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("per", ["row", "matrix"])
@pytest.mark.parametrize("objective", ["plain", "hessian"])
def test_a_search_finds_the_least_error_among_its_candidates(per, objective, feedback):
    w = RNG.standard_t(3, (24, 40)).astype(np.float32)
    s = sensitivity(24, 40)
    rule = make_clip({
        "id": "percentile", "per": per, "objective": objective,
        "trial": "feedback" if feedback else "nearest", "percentiles": [0.9, 0.97, 1.0],
    })  # fmt: skip
    found = rule.find(w, 7, s)
    candidates = [row_quantile(w, p).astype(np.float64) for p in (0.9, 0.97, 1.0)]
    errors = [
        row_errors(w, c, 7, s, feedback)[0 if objective == "hessian" else 1] for c in candidates
    ]
    if objective == "hessian":
        errors = [e * s.row_weight for e in errors]
    if per == "matrix":
        errors = [np.full(24, e.sum()) for e in errors]
    expected = np.choose(np.argmin(errors, axis=0), candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_least_error_search_beats_every_fixed_clip():
    w = RNG.standard_t(4, (32, 48)).astype(np.float32)
    s = sensitivity(32, 48)
    found = row_errors(w, make_clip("search").find(w, 7, s), 7, s)[0]
    for fraction in (1.0, 0.75, 0.5, 0.25):
        fixed = row_errors(w, fraction * np.abs(w).max(1).astype(np.float64), 7, s)[0]
        assert found.sum() <= fixed.sum() * (1 + 1e-3), fraction


def test_hessian_aware_sdclip_is_the_records_formula():
    w = RNG.standard_normal((10, 20)).astype(np.float32)
    s = sensitivity(10, 20)
    diagonal = np.diag(s.hessian)
    r = np.abs(w.astype(np.float64)) @ (diagonal / diagonal.mean())
    r /= r.mean()
    expected = 12.85 * w.astype(np.float64).std(1) * (1 + 0.175 * (r - 1))
    rule = make_clip({"id": "sd", "hessian_weight": 0.175})
    np.testing.assert_allclose(rule.find(w, 31, s), expected, rtol=1e-9)


@pytest.mark.parametrize("clip", [{"id": "sd", "hessian_weight": 0.1}, "search"])
def test_rules_that_need_a_hessian_say_so(clip):
    w = RNG.standard_normal((4, 8)).astype(np.float32)
    with pytest.raises(UsageError, match="needs the Hessian"):
        make_clip(clip).find(w, 31, Sensitivity(None, np.ones(4), None, measured=False))


def test_groups_have_steps_of_their_own():
    w = np.repeat(np.exp2(np.arange(5)), 4)[None, :18].astype(np.float32) * np.ones((3, 1), "f4")
    scheme = IntN(bits=8, clip="rowmax", group=4)
    s = Sensitivity(None, np.ones(3), None, measured=False)
    steps = scheme.steps(w, s, 1.0, scheme.find_clips(w, s))
    assert steps.row_f16.shape == (3, 5)
    np.testing.assert_allclose(steps.row[0], np.exp2(np.arange(5)) / 127, rtol=1e-3)
    np.testing.assert_array_equal(round_nearest(w, steps, 127), 127)


def test_auto_off_leaves_clips_where_the_rule_put_them():
    w = RNG.standard_normal((4, 8)).astype(np.float32)
    s = Sensitivity(None, np.ones(4), None, measured=False)
    fixed = IntN(clip={"id": "sd", "k": 9.0}, auto=False)
    clips = fixed.find_clips(w, s)
    np.testing.assert_array_equal(
        fixed.steps(w, s, 1.0, clips).row, fixed.steps(w, s, 5.0, clips).row
    )
