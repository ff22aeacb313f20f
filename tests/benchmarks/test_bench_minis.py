"""benchmarks/bench_minis.py: its wrong runs learn what they say, and its bound lies between."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from train.test_all_families import MODELS, settings_of

from golfpack.models import FAMILIES
from golfpack.models.checkpoint import load_checkpoint
from golfpack.train.loss import validation_loss
from golfpack.train.run import new_run
from golfpack.train.trainer import complete_options, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def minis(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import bench_minis

    return bench_minis


def walk(size: int, seed: int) -> np.ndarray:
    """Tokens that go up by one or by three, at even odds: what comes next is sure within a bit."""
    steps = 1 + 2 * np.random.default_rng(seed).integers(0, 2, size)
    return (steps.cumsum() % 32).astype(np.uint16)


@pytest.mark.parametrize("by", [1, -1])
def test_a_shifted_family_hands_out_its_logits_shifted_while_it_trains(minis, by: int) -> None:
    family = minis.shifted(FAMILIES["llama"], by)
    spec = family.spec(complete_options(family, MODELS["llama"], 16))
    model = new_run(family, spec, settings_of("llama")).model
    rows = torch.arange(16)[None]
    trained, told = model.train()(rows), model.eval()(rows)
    if by > 0:
        assert torch.equal(trained[:, 1:], told[:, :-1])
    else:
        assert torch.equal(trained[:, :-1], told[:, 1:])


def test_right_runs_pass_and_wrong_ones_do_not(minis, tmp_path: Path) -> None:
    tokens, held_out = walk(6000, 0), walk(1500, 1)
    bound = minis.frequencies_loss(tokens, held_out, 32) - 2.2  # of 3.47; the walk's own is 0.69
    config = dataclasses.replace(settings_of("llama"), steps=120)
    found, later = {}, {}
    for by in (0, 1, -1):
        family = minis.shifted(FAMILIES["llama"], by) if by else FAMILIES["llama"]
        folder = tmp_path / f"run{by}"
        train(config, MODELS["llama"], tokens, folder, family=family)
        model = load_checkpoint(folder / "final_model.pt").module()
        found[by] = validation_loss(model, held_out, 16, 8)
        later[by] = minis.later_loss(model, held_out, 16, by) if by >= 0 else None
    assert found[0] < bound < min(found[1], found[-1])
    assert later[0] == pytest.approx(found[0], rel=0.02)
    assert minis.verdict("untrained", found[0], bound)
    assert not minis.verdict("untrained", found[1], bound)
    assert not minis.verdict(minis.OWN, 0.0, bound)
    # What comes two tokens later is sure within a bit and a half.
    assert 1.03 < later[1] < 1.4
    assert later[1] < found[1]
