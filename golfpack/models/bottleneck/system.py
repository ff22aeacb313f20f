"""Checkpoints as the decoupled-bottleneck programs have them.

`best.pt`, `last.pt` and `step{N}.pt` are what `torch.save` makes of {config, model, step, best_val}:
plain values and tensors, the configuration by the programs' 19 names. With `tie_qk` keys and queries are
one module under two names, so that the state dict has both.
Facts: TheApeMachine/decoupled-bottleneck-attention, programs v27 and v29.
"""

import io
from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.bottleneck.config import BottleneckConfig
from golfpack.models.training import Snapshot


def system_config(options: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    """The programs' ModelConfig.

    Raises:
        UsageError: they have no such model: they divide decoupled scores a second time, always.
    """
    cfg = BottleneckConfig(**options)
    if cfg.mode == "decoupled" and not cfg.null_attn and cfg.score_scale != "sdpa":
        raise UsageError(
            f"the system's own checkpoints do not tell score_scale={cfg.score_scale!r} of decoupled "
            "attention without a null key: its programs would compute other scores",
            "leave out train.system_every, or model.score_scale",
        )
    return {
        "vocab_size": cfg.vocab_size,
        "block_size": cfg.seq_len,
        "n_layer": cfg.num_layers,
        "n_head": cfg.num_heads,
        "kv_head": cfg.num_kv_heads if cfg.mode == "gqa" else None,
        "d_model": cfg.dim,
        "d_ff": cfg.mlp_hidden,
        "embed_dim": cfg.embed_dim,
        "attn_mode": cfg.mode,
        "attn_dim": cfg.attn_dim,
        "sem_dim": cfg.sem_dim,
        "geo_dim": cfg.geo_dim,
        "rope": cfg.rope,
        "rope_base": cfg.rope_base,
        "tie_qk": cfg.tie_qk,
        "null_attn": cfg.null_attn,
        "learned_temp": cfg.learned_temp,
        "mlp": cfg.activation,
        "dropout": dropout,
    }


def system_checkpoint(run: Snapshot, aliases: Mapping[str, str]) -> tuple[str, bytes]:
    """`step{N}.pt`, tied tensors under both names."""
    weights = {name: t.cpu() for name, t in run.weights.items()}
    content = {
        "config": system_config(run.options, run.dropout),
        "model": weights | {name: weights[own] for name, own in aliases.items()},
        "step": run.step,
        "best_val": run.best_val,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return f"step{run.step}.pt", buffer.getvalue()
