"""Folds: column factors of one matrix, undone in the rows of another, leave every logit as it was."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from golfpack.models import FAMILIES
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.config import CHOICES
from golfpack.packer.quantize.awq import fold_weights
from golfpack.spec import Fold, ModelSpec

TOLERANCE = 1e-4
ACTIVATIONS = CHOICES["activation"]


def _golf(rng: np.random.Generator, draw: int) -> dict[str, Any]:
    kv_heads, per_kv, head_dim = int(rng.integers(1, 4)), int(rng.integers(1, 4)), 4
    return {
        "vocab_size": 64, "num_layers": int(rng.integers(1, 4)), "num_heads": kv_heads * per_kv,
        "dim": kv_heads * per_kv * head_dim, "num_kv_heads": kv_heads,
        "mlp_hidden": int(rng.integers(1, 40)), "passes": int(rng.integers(1, 3)),
        "tied": bool(rng.integers(2)), "q_gain": bool(rng.integers(2)),
        "activation": ACTIVATIONS[draw % len(ACTIVATIONS)],
        # Every second draw has what a record may have around its values.
        "xsa_last_n": draw % 2 * int(rng.integers(2)),
        "value_residual": CHOICES["value_residual"][draw % 2 * int(rng.integers(3))],
        "attn_gate": ("none", "affine")[draw % 2], "ln_scale": draw % 2 == 1,
        "parallel_start": -draw % 2,
    }  # fmt: skip


def _llama(rng: np.random.Generator, draw: int) -> dict[str, Any]:
    kv_heads, per_kv = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    return {
        "vocab_size": 64, "num_layers": int(rng.integers(1, 4)), "dim": 24, "head_dim": 4,
        "num_heads": kv_heads * per_kv, "num_kv_heads": kv_heads,
        "mlp_hidden": int(rng.integers(1, 40)), "tied": draw % 2 == 0,
    }  # fmt: skip


# Per family with folds, how a small config is drawn.
CONFIGS: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "golf": _golf, "llama": _llama,
}  # fmt: skip


def random_weights(spec: ModelSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Float32 weights of a size that keeps activations near 1; vectors and gains around 1."""
    weights = {}
    for t in spec.tensors:
        noise = rng.standard_normal(t.shape)
        weights[t.name] = 1 + 0.2 * noise if t.role == "vector" else noise / t.shape[-1] ** 0.5
    return {name: w.astype(np.float32) for name, w in weights.items()}


def random_logs(fold: Fold, rng: np.random.Generator, octaves: int = 3) -> np.ndarray:
    """Column factors over +-`octaves`, equal where one producer row feeds several columns."""
    per_row = rng.integers(-16 * octaves, 16 * octaves + 1, max(fold.rows) + 1)
    return per_row[list(fold.rows)].astype(np.int32)


def logits(family: str, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(0, config["vocab_size"], (2, 24))
    with torch.inference_mode():
        return FAMILIES[family].module(config, weights)(torch.from_numpy(tokens)).numpy()


def test_every_family_with_folds_is_here():
    with_folds = {
        name
        for name, family in FAMILIES.items()
        if "Fold(" in inspect.getsource(sys.modules[family.matches.__module__])
    }
    assert with_folds == set(CONFIGS)


@pytest.mark.parametrize("draw", range(6))
@pytest.mark.parametrize("name", CONFIGS)
def test_every_fold_leaves_the_logits(name, draw):
    rng = np.random.default_rng(draw)
    spec = FAMILIES[name].spec(CONFIGS[name](rng, draw))
    weights = random_weights(spec, rng)
    before = logits(name, spec.config, weights)
    for fold in spec.folds:  # one after the other, so that the one that breaks is known
        changed = fold_weights(weights, fold, random_logs(fold, rng))
        assert changed.keys() == {fold.consumer, fold.producer}
        assert all((changed[n] != weights[n]).any() for n in changed)
        weights |= changed
        assert np.abs(logits(name, spec.config, weights) - before).max() < TOLERANCE, fold


@pytest.mark.parametrize("name", CONFIGS)
def test_folds_name_real_rows_and_columns(name):
    rng = np.random.default_rng(7)
    for draw in range(6):
        spec = FAMILIES[name].spec(CONFIGS[name](rng, draw))
        for fold in spec.folds:
            assert len(fold.rows) == spec[fold.consumer].shape[1]
            assert 0 <= min(fold.rows) <= max(fold.rows) < spec[fold.producer].shape[0]
        assert len({f.consumer for f in spec.folds}) == len(spec.folds)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_wrong_degree_or_a_wrong_row_would_show(activation):
    rng = np.random.default_rng(3)
    config = {
        "vocab_size": 64, "num_layers": 2, "dim": 16, "num_heads": 4, "num_kv_heads": 2,
        "mlp_hidden": 24, "activation": activation,
    }  # fmt: skip
    spec = FAMILIES["golf"].spec(config)
    weights = random_weights(spec, rng)
    before = logits("golf", config, weights)
    for fold in spec.folds:
        logs = random_logs(fold, rng)
        for wrong in (
            replace(fold, power=3 - fold.power),
            replace(fold, rows=fold.rows[1:] + fold.rows[:1]),
        ):
            after = logits("golf", config, weights | fold_weights(weights, wrong, logs))
            assert np.abs(after - before).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["golf_0.48M", "books_6x256"])
def test_folds_of_real_checkpoints(shared, name):
    c = load_checkpoint(shared / "checkpoints" / name / "final_model.pt")
    rng, weights = np.random.default_rng(5), dict(c.weights)
    before = logits(c.family.name, c.config, weights)
    assert len(c.spec.folds) == 2 * c.config["num_layers"]
    for fold in c.spec.folds:
        weights |= fold_weights(weights, fold, random_logs(fold, rng))
    assert np.abs(logits(c.family.name, c.config, weights) - before).max() < TOLERANCE
