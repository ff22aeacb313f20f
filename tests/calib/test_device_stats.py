"""Calibration in a device's way, on the CPU, against the CPU's own."""

import numpy as np
import pytest
import torch

from golfpack.calib.device import calibrate_on
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import generate, pick
from golfpack.models.golf.family import spec as golf_spec

LOOPED = {
    "vocab_size": 24, "num_layers": 2, "dim": 8, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 12, "passes": 2, "tied": False,
}  # fmt: skip


def arrays(stats):
    found = {f"{n}/fisher": v for n, v in stats.vector_fisher.items()}
    for name, uses in stats.uses.items():
        for i, use in enumerate(uses):
            found |= {
                f"{name}/{i}/{k}": v for k, v in vars(use).items() if isinstance(v, np.ndarray)
            }
    return found


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("looped", [True, False])
def test_statistics_are_the_hosts_up_to_rounding(tiny, tiny_tokens, monkeypatch, looped, gradients):
    monkeypatch.setattr("golfpack.calib.stats.BATCH_TOKENS", 192)
    model, spec, tokens = (
        tiny.module(),
        tiny.spec,
        tiny_tokens,
    )
    if looped:
        spec, rng = golf_spec(LOOPED), np.random.default_rng(0)
        weights = {t.name: rng.standard_normal(t.shape).astype("f4") for t in spec.tensors}
        model = FAMILIES["golf"].module(spec.config, weights)
        tokens = CalibTokens(rng.integers(0, 24, (7, 16)), "synthetic")
    before = {n: p.clone() for n, p in model.named_parameters()}
    options = {"gradients": gradients, "seed": 3, "threads": 2}
    found = arrays(calibrate_on("cpu", model, spec, tokens, **options))
    wanted = arrays(calibrate(model, spec, tokens, **options))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, key
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=2e-6 * scale, err_msg=key)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_other_seeds_draw_other_signs(tiny, tiny_tokens):
    model = tiny.module()
    one, two = (
        arrays(
            calibrate_on("cpu", model, tiny.spec, tiny_tokens, gradients=True, seed=s, threads=1)
        )
        for s in (0, 1)
    )
    key = "blocks.0.mlp.fc.weight/0/row_weight"
    assert 1e-3 < np.abs(one[key] / two[key] - 1).max() < 1


def test_overflow_is_found_at_the_end(tiny, tiny_tokens):
    weights = {n: w * np.float32(1e30) for n, w in tiny.weights.items()}
    model = tiny.module(weights)
    with pytest.raises(UsageError, match="not finite"):
        calibrate_on("cpu", model, tiny.spec, tiny_tokens, gradients=True, seed=0, threads=1)


def test_draws_are_torchs_own():
    p = torch.rand(50, 40, dtype=torch.float64).softmax(-1)
    one, two = (torch.Generator().manual_seed(4) for _ in range(2))
    noise = torch.empty_like(p).exponential_(generator=two)
    assert torch.equal(torch.multinomial(p, 1, generator=one)[:, 0], pick(p, noise))


def test_a_model_that_overflows_writes_no_text(tiny):
    weights = {n: w * np.float32(np.nan) for n, w in tiny.weights.items()}
    model = tiny.module(weights)
    with pytest.raises(UsageError, match="not finite"):
        generate(model, 2, 6, 1, 1.0, torch.Generator().manual_seed(0))
