"""Optimisers by tensor role: Muon for block matrices, Adam for embeddings, heads and vectors."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Adam, Optimizer

from golfpack.spec import ModelSpec, Role
from golfpack.train.config import TrainConfig
from golfpack.train.muon import Muon

ADAM_BETAS = (0.9, 0.95)
ADAM_ROLES: tuple[Role, ...] = ("embed", "head", "vector")


def make_optimisers(model: nn.Module, spec: ModelSpec, config: TrainConfig) -> list[Optimizer]:
    """Muon, then Adam. Every parameter named in `spec` is in exactly one group.

    Gains and mixes are of role "vector" whatever their shape: (2, dim) is no linear map.
    """
    parameters = dict(model.named_parameters())
    by_role: dict[Role, list[nn.Parameter]] = {}
    for tensor in spec.tensors:
        by_role.setdefault(tensor.role, []).append(parameters[tensor.name])
    matrices = [p for role, group in by_role.items() if role not in ADAM_ROLES for p in group]
    rates: dict[Role, float] = {
        "embed": config.embed_lr,
        "head": config.head_lr,
        "vector": config.scalar_lr,
    }
    muon = Muon(
        [_group(matrices, config.matrix_lr)],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    adam_groups = [_group(by_role[role], rates[role]) for role in ADAM_ROLES if role in by_role]
    return [muon, Adam(adam_groups, betas=ADAM_BETAS)]


def scale_rates(optimisers: Sequence[Optimizer], scale: float) -> None:
    """Set every group's rate to `scale` times its peak."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = scale * group["peak_lr"]


def _group(parameters: list[nn.Parameter], peak_lr: float) -> dict[str, object]:
    return {"params": parameters, "lr": peak_lr, "peak_lr": peak_lr}
