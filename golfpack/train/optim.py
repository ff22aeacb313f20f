"""Optimisers of a run: which parameters share a rate and a decay, by role and by what a family says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from golfpack.models.ranks import ALONE, Group
from golfpack.spec import ModelSpec, Role, TensorSpec
from golfpack.train.config import TrainConfig
from golfpack.train.deferred import DeferredAdamW
from golfpack.train.lion import Lion
from golfpack.train.muon import Muon

ADAM_ROLES: tuple[Role, ...] = ("embed", "head", "vector")


def make_optimisers(
    parameters: Mapping[str, torch.Tensor],
    spec: ModelSpec,
    decays: Callable[[TensorSpec], bool],
    config: TrainConfig,
    group: Group = ALONE,
    tables: Sequence[nn.Embedding] = (),
) -> list[Optimizer]:
    """One for all, or Muon and then Adam. Every tensor named in `spec` is in exactly one group.

    Gains and mixes are of role "vector" whatever their shape: (2, dim) is no linear map.

    Args:
        parameters: by the names of `spec`; on the meta device they tell what would be kept of them.
        decays: see `Training.decays`; of no effect beside Muon, whose matrices all decay.
        group: the processes that share Muon's work.
        tables: whose rows AdamW moves when a step looks them up; not under Lion.
    """
    if config.optimizer == "muon":
        return _muon(parameters, spec, config, group, tables)
    shrunk = [parameters[t.name] for t in spec.tensors if decays(t)]
    kept = [parameters[t.name] for t in spec.tensors if not decays(t)]
    groups = [
        _group(tensors, config.lr, decay)
        for tensors, decay in ((shrunk, config.weight_decay), (kept, 0.0))
        if tensors
    ]
    if config.optimizer == "lion":
        return [Lion(groups, config.betas)]
    return [_adam(groups, config, tables)]


def _muon(
    parameters: Mapping[str, torch.Tensor],
    spec: ModelSpec,
    config: TrainConfig,
    ranks: Group,
    tables: Sequence[nn.Embedding],
) -> list[Optimizer]:
    by_role: dict[Role, list[torch.Tensor]] = {}
    for tensor in spec.tensors:
        # A convolution's kernels are no one matrix.
        role = tensor.role if len(tensor.shape) == 2 else "vector"
        by_role.setdefault(role, []).append(parameters[tensor.name])
    matrices = [p for role, group in by_role.items() if role not in ADAM_ROLES for p in group]
    settings: dict[Role, tuple[float, float]] = {
        "embed": (config.embed_lr, config.embed_decay),
        "head": (config.head_lr, 0.0),
        "vector": (config.scalar_lr, config.scalar_decay),
    }
    groups = [_group(by_role[role], *settings[role]) for role in ADAM_ROLES if role in by_role]
    optimisers: list[Optimizer] = []
    if matrices:
        group = _group(matrices, config.matrix_lr, config.weight_decay)
        optimisers.append(Muon([group], momentum=config.momentum, ranks=ranks))
    if groups:
        optimisers.append(_adam(groups, config, tables))
    return optimisers


def _adam(
    groups: list[dict[str, Any]], config: TrainConfig, tables: Sequence[nn.Embedding]
) -> AdamW:
    # In one pass over each tensor, a table of 8.4 million weights takes a sixth of the time
    # (docs/LOG.md). Tensors without memory cannot.
    fused = all(not p.is_meta for group in groups for p in group["params"])
    settings = {"betas": config.betas, "eps": config.eps, "fused": fused}
    return DeferredAdamW(groups, tables, **settings) if tables else AdamW(groups, **settings)


def set_rates(optimisers: Sequence[Optimizer], scale: float, momentum: float) -> None:
    """Set every group's rate to `scale` times its peak, and Muon's momentum."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = scale * group["peak_lr"]
            if "momentum" in group:
                group["momentum"] = momentum


def state_bytes(optimisers: Sequence[Optimizer]) -> int:
    """Bytes that optimisers keep for tensors, once they have taken a step; counters left aside."""
    tensors = [
        t for o in optimisers for kept in o.state.values() for t in kept.values() if t.ndim > 0
    ]
    return sum(t.nbytes for t in tensors)


def _group(parameters: list[torch.Tensor], peak_lr: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay}
