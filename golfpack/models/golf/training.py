"""Training of the golf family: initial weights are those that the challenge's baseline starts from.

Source: openai/parameter-golf, `train_gpt.py`, except that block matrices start orthogonal.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from golfpack.models.golf.net import Golf
from golfpack.models.training import Training
from golfpack.spec import ModelSpec, Role, TensorSpec

EMBEDDING_STD = 0.005
# Queries and keys are normalised, so this is the logit scale that attention starts from.
Q_GAIN = 1.5

# Vectors that start as something else than ones, by the ends of their names; the values are those that
# the challenge's records start from.
VECTORS: dict[str, float] = {
    "q_gain": Q_GAIN,
    "vr_lambda": 0.5,
    "vrl_alpha": 0.0,
    "attn_gate.weight": 0.0,
    "attn_gate.bias": 4.0,
    "attn_gate_w": 0.0,
    "attn_gate_proj.weight": 0.0,
    "smear.gate": 0.0,
    "smear_gate.weight": 0.0,
    "smear_lambda": 0.0,
    "bigram.scale": 0.05,
    "ve_shared.scale": 0.1,
    "skip_gates": 0.0,
    "parallel_resid_lambdas": 1.1,
}

# Blocks start as the identity, and an untied head as the uniform distribution.
ZERO_ROLES: tuple[Role, ...] = ("attn_out", "mlp_out", "head")


@torch.no_grad()
def initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
    """Fill every parameter of a golf model in place."""
    parameters = dict(model.named_parameters())
    for tensor in spec.tensors:
        _fill(parameters[tensor.name], tensor, generator)


def _fill(parameter: nn.Parameter, tensor: TensorSpec, generator: torch.Generator) -> None:
    if tensor.role in ZERO_ROLES:
        parameter.zero_()
    elif tensor.role == "embed":
        parameter.normal_(0.0, EMBEDDING_STD, generator=generator)
    elif tensor.role == "vector":
        _fill_vector(parameter, tensor.name)
    else:
        nn.init.orthogonal_(parameter, generator=generator)


def _fill_vector(parameter: nn.Parameter, name: str) -> None:
    """Scales and skip weights start neutral at 1; the exceptions are named."""
    start = (value for end, value in VECTORS.items() if f".{name}".endswith(f".{end}"))
    parameter.fill_(next(start, 1.0))
    if name.endswith("resid_mix"):
        parameter[1] = 0.0  # nothing of the embedding is mixed in again


def _decays(tensor: TensorSpec) -> bool:
    return tensor.role not in ("embed", "vector")


def _blocks(model: nn.Module) -> Sequence[nn.Module] | None:
    golf = cast(Golf, model)
    # There the first virtual layer leaves its values to the others: a second run would find them.
    return None if golf.cfg.value_residual != "none" else list(golf.blocks)


TRAINING = Training(
    initialise=initialise,
    shape={"num_layers": 6, "dim": 256, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 768},
    decays=_decays,
    blocks=_blocks,
)
