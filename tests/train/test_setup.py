"""Initial weights and optimiser groups."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from golfpack.models.golf.family import GOLF
from golfpack.models.golf.training import TRAINING, initialise
from golfpack.train.config import TrainConfig
from golfpack.train.demo_settings import DEMO_MODEL, DEMO_TRAIN
from golfpack.train.optim import make_optimisers, set_rates

TINY: dict[str, Any] = {
    "vocab_size": 64, "num_layers": 3, "dim": 16, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 48,
}  # fmt: skip
RECORD: dict[str, Any] = TINY | {
    "smear": "window", "smear_window": 4, "bigram_size": 32, "bigram_dim": 8, "skip_gates": True,
    "value_embed_dim": 4, "value_embed_layers": "2", "value_residual": "lambda", "attn_gate": "affine",
    "layer_order": "0-2,1-2", "lanes": 2, "parallel_start": 2, "embed_dim": 12,
}  # fmt: skip
VARIANTS = [TINY, TINY | {"tied": False}, TINY | {"passes": 2, "activation": "swiglu"}]


def fresh(config: dict[str, Any], seed: int = 0) -> nn.Module:
    model = GOLF.build(config)
    for p in model.parameters():
        nn.init.constant_(p, math.nan)
    initialise(model, GOLF.spec(config), torch.Generator().manual_seed(seed))
    return model


def optimisers_of(model: nn.Module, config: dict[str, Any], settings: TrainConfig) -> Any:
    parameters, spec = dict(model.named_parameters()), GOLF.spec(config)
    return make_optimisers(parameters, spec, TRAINING.decays, settings)


@pytest.mark.parametrize("config", [*VARIANTS, RECORD])
def test_a_fresh_model_is_near_uniform(config: dict[str, Any]) -> None:
    model = fresh(config)
    with torch.no_grad():
        logits = model(torch.arange(64)[None])
    log_p = torch.log_softmax(logits, dim=-1)
    assert torch.isfinite(logits).all()
    assert (log_p + math.log(64)).abs().max() < 0.25


def test_initial_values_are_the_baselines() -> None:
    weights = fresh(TINY).state_dict()
    assert weights["tok_emb.weight"].std().item() == pytest.approx(0.005, rel=0.1)
    assert not weights["blocks.1.attn.proj.weight"].any()
    assert not weights["blocks.1.mlp.proj.weight"].any()
    assert weights["blocks.1.attn.q_gain"].tolist() == [1.5, 1.5]
    assert weights["blocks.1.resid_mix"].tolist() == [[1.0] * 16, [0.0] * 16]
    assert weights["skip_weights"].unique().tolist() == [1.0]
    q = weights["blocks.1.attn.c_q.weight"]
    assert torch.allclose(q @ q.T, torch.eye(16), atol=1e-4)


def test_weights_follow_the_seed_and_leave_global_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (fresh(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    name = "blocks.0.mlp.fc.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize("config", VARIANTS)
def test_every_parameter_has_one_optimiser(config: dict[str, Any]) -> None:
    model = fresh(config)
    settings = TrainConfig(steps=1, matrix_lr=1.0, embed_lr=2.0, head_lr=3.0, scalar_lr=4.0)
    optimisers = optimisers_of(model, config, settings)
    set_rates(optimisers, 0.5, 0.9)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names.pop(id(p)): group["lr"]
        for optimiser in optimisers
        for group in optimiser.param_groups
        for p in group["params"]
    }
    assert not names
    by_kind = {"tok_emb.weight": 1.0, "lm_head.weight": 1.5}
    for name, rate in rates.items():
        in_block = name.startswith("blocks.") and name.endswith(".weight")
        assert rate == (0.5 if in_block else by_kind.get(name, 2.0)), name


def test_the_demonstration_is_small() -> None:
    spec = GOLF.spec(DEMO_MODEL)
    assert spec.numel < 1_500_000
    assert DEMO_TRAIN.steps is not None
    assert DEMO_TRAIN.steps * DEMO_TRAIN.batch_tokens * spec.numel < 4e12  # minutes on two cores


def test_a_model_with_the_records_features_learns() -> None:
    model = fresh(RECORD)
    optimisers = optimisers_of(model, RECORD, TrainConfig(steps=1))
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    assert losses[-1] < losses[0] - 1.0
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The first virtual layer has no earlier values to take in.
    assert still == ["blocks.0.attn.vr_lambda"]
