"""Initial weights of a golf model: what the challenge's baseline starts from.

Source: openai/parameter-golf, `train_gpt.py`, except that block matrices start orthogonal.
"""

import torch
from torch import nn

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
def initialise(model: nn.Module, spec: ModelSpec, seed: int) -> None:
    """Fill every parameter of a golf model in place, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
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
