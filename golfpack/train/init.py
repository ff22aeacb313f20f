"""Initial weights of a golf model: what the challenge's baseline starts from.

Source: openai/parameter-golf, `train_gpt.py`, except that block matrices start orthogonal.
"""

import torch
from torch import nn

from golfpack.packer.ir import ModelSpec, Role, TensorSpec

EMBEDDING_STD = 0.005
# Queries and keys are normalised, so this is the logit scale that attention starts from.
Q_GAIN = 1.5

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
        _fill_vector(parameter, tensor.name.rpartition(".")[2])
    else:
        nn.init.orthogonal_(parameter, generator=generator)


def _fill_vector(parameter: nn.Parameter, name: str) -> None:
    """Scales, skip weights and gates start neutral at 1; the exceptions are named."""
    parameter.fill_(Q_GAIN if name == "q_gain" else 1.0)
    if name == "resid_mix":
        parameter[1] = 0.0  # nothing of the embedding is mixed in again
