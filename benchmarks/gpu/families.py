"""Training on the device against the CPU: every family and feature; and that every aim runs."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.measure import Findings, Job
from golfpack.models import FAMILIES
from golfpack.models.choose import choose_family
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import TrainResult, train

USER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab=64, dim=32):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.mix = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, vocab, bias=False)

    def forward(self, ids):
        return self.head(self.mix(self.emb(ids))[0])
"""
VOCAB = 64
SHAPE: Mapping[str, Any] = {"vocab_size": VOCAB, "num_layers": 2, "dim": 32, "num_heads": 2}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "golf": {**SHAPE, "num_kv_heads": 1, "mlp_hidden": 64},
    "bottleneck": {
        **SHAPE, "mlp_hidden": 48, "attn_dim": 16, "sem_dim": 8, "geo_dim": 16, "tie_qk": True,
    },
    "alph": {**SHAPE, "mlp_hidden": 64},
    "llama": {**SHAPE, "num_kv_heads": 1, "mlp_hidden": 64},
    "gpt2": {**SHAPE, "mlp_hidden": 64},
    "user": {},
}  # fmt: skip
# Of the golf family beside its plain run.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 0.003},
    "lion": {"optimizer": "lion", "lr": 0.001},
    "averages": {"ema_decay": 0.9, "cautious_decay": True, "decay_final": 4.0},
    "weighed targets": {"word_start_weight": 2.0, "word_starts": "3,7-20", "focal_gamma": 1.0},
    "heads": {"mtp_heads": 2, "jepa_weight": 0.1},
    "meta": {"meta_weight": 0.5, "meta_every": 1},
    "first attention": {"qk_init_tokens": 2000, "curriculum_steps": 5},
    "accumulated, computed again": {"accumulate": 2, "grad_checkpoint": True},
}
# Relative difference of validation losses. Muon's products are bfloat16 on the device alone.
CLOSE = {"muon": 0.01, "adamw": 1e-3, "lion": 5e-3}
# What each aim may lose against the run without, nats per token: they are shown to run, not to gain.
AIMS: Mapping[str, Mapping[str, Any]] = {
    "the looks alone": {},
    "errors": {"aim_errors": 0.3},
    "rounding": {"aim_rounding": True},
    "trellis": {"aim_trellis": True},
    "rate": {"rate_decay": 1.0},
}
WORST = 0.5


def families(job: Job, found: Findings) -> None:
    """Validation losses of short runs in float32, on the device and on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        user = Path(folder) / "net.py"
        user.write_text(USER)
        for name, model in MODELS.items():
            _both(job, found, name, model, Path(folder), user, {})
        for what, options in VARIANTS.items():
            _both(job, found, f"golf, {what}", MODELS["golf"], Path(folder), user, options)
        _aims(job, found, Path(folder))


def _both(
    job: Job,
    found: Findings,
    what: str,
    model: Mapping[str, Any],
    folder: Path,
    user: Path,
    options: Mapping[str, Any],
) -> None:
    name = what.split(",")[0]
    losses = []
    for device in ("cpu", job.device):
        family = choose_family(f"{user}:Net") if name == "user" else FAMILIES[name]
        assert family is not None
        told = {"optimizer": "adamw", "lr": 0.003} if name != "golf" else {}
        config = _config(device, **{**told, **options})
        out = folder / f"{what}-{len(losses)}"
        losses.append(_run(config, model, out, family=family).val_loss or math.nan)
    off = abs(losses[1] / losses[0] - 1)
    found.check(f"training, {what}: validation loss", off, CLOSE[config.optimizer])


def _aims(job: Job, found: Findings, folder: Path) -> None:
    losses = {}
    for what, options in AIMS.items():
        config = _config(job.device, budget="3bpw", aim_tokens=1024, steps=40, **options)
        result = _run(config, MODELS["golf"], folder / f"aim {what}")
        losses[what] = result.val_loss or math.nan
    plain = losses.pop("the looks alone")
    found.figure("aimed training, the looks alone", plain, "nats/token")
    for what, loss in losses.items():
        found.check(f"aimed training, {what}: loss above the looks alone", loss - plain, WORST)


def _config(device: str, **options: object) -> TrainConfig:
    fixed: dict[str, object] = {
        "steps": 24, "batch_tokens": 512, "seq_len": 64, "warmup_steps": 3, "threads": 1,
        "save_every": 1000, "val_every": 1000, "precision": "float32", "device": device,
    }  # fmt: skip
    return TrainConfig(**{**fixed, **options})  # type: ignore[arg-type]


def _run(config: TrainConfig, model: Mapping[str, Any], out: Path, **options: Any) -> TrainResult:
    return train(config, model, _stream(20_000, 0), out, val_tokens=_stream(2048, 1), **options)


def _stream(size: int, seed: int) -> np.ndarray:
    """A cycle of all tokens in a fixed order, cut into pieces: easy to learn, not trivial."""
    order = np.random.default_rng(7).permutation(VOCAB)
    starts = np.random.default_rng(seed).integers(VOCAB, size=-(-size // 24))
    return order[(starts[:, None] + np.arange(24)) % VOCAB].ravel()[:size].astype(np.uint16)
