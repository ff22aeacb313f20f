"""Every family trains through the one trainer, and what it writes is read back as that model."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import Family
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.choose import choose_family
from golfpack.models.training import seeded
from golfpack.train.config import TrainConfig
from golfpack.train.loss import sequence_loss, validation_loss
from golfpack.train.run import new_run
from golfpack.train.trainer import Progress, complete_options, train

USER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.register_buffer("shift", torch.ones(dim))
        self.drop = nn.Dropout(0.2)
        self.mix = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, vocab, bias=False)

    def forward(self, ids):
        return self.head(self.drop(self.mix(self.emb(ids))[0] + self.shift))

class Counting(Net):
    def forward(self, ids):
        if self.training:
            self.shift += 1
        return super().forward(ids)
"""
SHAPE: dict[str, Any] = {"vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "golf": SHAPE | {"num_kv_heads": 1, "mlp_hidden": 32},
    "bottleneck": SHAPE
    | {"mlp_hidden": 24, "attn_dim": 8, "sem_dim": 4, "geo_dim": 8, "tie_qk": True},
    "alph": SHAPE | {"mlp_hidden": 32},
    "llama": SHAPE | {"num_kv_heads": 1, "mlp_hidden": 24},
    "gpt2": SHAPE | {"mlp_hidden": 32},
    "user": {},
}
CONFIG = TrainConfig(
    steps=24, batch_tokens=128, seq_len=16, accumulate=2, optimizer="adamw", lr=0.01,
    schedule="cosine", warmup_steps=3, seq_schedule="8@0,16@6", order="random", save_every=5,
    log_every=1, threads=1,
)  # fmt: skip


def stream(size: int, seed: int = 0) -> np.ndarray:
    """A cycle of 32 tokens in a fixed order, cut into pieces: easy to learn, not trivial."""
    order = np.random.default_rng(7).permutation(32)
    starts = np.random.default_rng(seed).integers(32, size=-(-size // 24))
    return order[(starts[:, None] + np.arange(24)) % 32].ravel()[:size].astype(np.uint16)


TOKENS, HELD_OUT = stream(4000), stream(500, seed=1)


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(USER)
    return path


def family_of(name: str, user_file: Path, class_name: str = "Net") -> Family:
    model = f"{user_file}:{class_name}" if name == "user" else name
    family = choose_family(model, ("vocab=32",) if name == "user" else ())
    assert family is not None
    return family


def settings_of(name: str, **changes: Any) -> TrainConfig:
    with_dropout = name in ("bottleneck", "alph", "gpt2")
    return dataclasses.replace(CONFIG, dropout=0.1 if with_dropout else 0.0, **changes)


class Stop(Exception):
    pass


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise Stop

    return progress


@pytest.mark.parametrize("name", MODELS)
def test_a_family_trains_and_is_read_back(name: str, tmp_path: Path, user_file: Path) -> None:
    """Dropout, accumulation, a schedule of lengths, random order: all of it survives a kill."""
    family, model = family_of(name, user_file), MODELS[name]
    config = settings_of(name)
    before = torch.get_rng_state()
    found = train(config, model, TOKENS, tmp_path / "a", family=family, val_tokens=HELD_OUT)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.val_loss is not None
    assert found.val_loss < 0.93 * math.log(32)

    with pytest.raises(Stop):
        train(config, model, TOKENS, tmp_path / "b", family=family, progress=stop_at(13))
    train(config, model, TOKENS, tmp_path / "b", family=family, resume=True)
    one, other = ((tmp_path / d / "final_model.pt").read_bytes() for d in "ab")
    assert one == other

    loaded = load_checkpoint(found.checkpoint, family=family if name == "user" else None)
    assert loaded.family.name == name
    assert not loaded.assumed
    assert validation_loss(loaded.module(), HELD_OUT, 16, 4) == pytest.approx(
        found.val_loss, rel=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["muon", "lion"])
def test_every_optimiser_takes_every_family(name: str, optimizer: str, user_file: Path) -> None:
    family = family_of(name, user_file)
    config = settings_of(name, optimizer=optimizer, lr=0.002)
    spec = family.spec(complete_options(family, MODELS[name], 16))
    run = new_run(family, spec, config)
    grouped = [p for o in run.optimisers for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, run.model.parameters()))
    assert len(grouped) == len(spec.tensors)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("user",)])
def test_a_fresh_model_knows_nothing(name: str) -> None:
    """Near the loss of the uniform distribution, and another for another seed."""
    family = FAMILIES[name]
    spec = family.spec(complete_options(family, MODELS[name], 16))
    batch = TOKENS[: 4 * 17].reshape(4, 17).astype(np.int64)
    losses = []
    for seed in (0, 0, 1):
        run = new_run(family, spec, dataclasses.replace(CONFIG, seed=seed))
        losses.append(sequence_loss(run.model.eval(), batch, "mean").item())
    assert losses[0] == losses[1] != losses[2] or name == "golf"
    assert losses[0] == pytest.approx(math.log(32), abs=0.1)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "user"])
def test_blocks_computed_twice_have_the_same_gradients(name: str) -> None:
    """With dropout, too: the second pass draws the masks of the first."""
    family = FAMILIES[name]
    spec = family.spec(complete_options(family, MODELS[name], 16))
    batch = TOKENS[: 4 * 17].reshape(4, 17).astype(np.int64)
    found = []
    for twice in (False, True):
        run = new_run(family, spec, settings_of(name, grad_checkpoint=twice))
        with seeded(3):
            sequence_loss(run.model, batch, "mean").backward()
        found.append({n: p.grad for n, p in run.model.named_parameters()})
    for parameter, grad in found[0].items():
        assert grad is not None
        assert torch.allclose(grad, found[1][parameter], atol=1e-6), parameter


def test_dropout_is_off_where_nothing_is_learnt_and_refused_where_it_is_not_there() -> None:
    family = FAMILIES["alph"]
    spec = family.spec(complete_options(family, MODELS["alph"], 16))
    run = new_run(family, spec, settings_of("alph"))
    assert {m.p for m in run.model.modules() if isinstance(m, nn.Dropout)} == {0.1}
    tokens = torch.arange(16)[None]
    assert not torch.equal(run.model(tokens), run.model(tokens))
    losses = {validation_loss(run.model, HELD_OUT, 16, 4) for _ in range(2)}
    assert len(losses) == 1
    assert run.model.training
    family = FAMILIES["llama"]
    spec = family.spec(complete_options(family, MODELS["llama"], 16))
    with pytest.raises(UsageError, match="llama family has no dropout"):
        new_run(family, spec, dataclasses.replace(CONFIG, dropout=0.1))


def test_a_class_that_changes_its_buffers_is_refused(tmp_path: Path, user_file: Path) -> None:
    family = family_of("user", user_file, "Counting")
    with pytest.raises(UsageError, match="changes its buffer 'shift'"):
        train(CONFIG, {}, TOKENS, tmp_path / "run", family=family)
