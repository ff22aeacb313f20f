"""What a family tells a trainer: how its models begin, what decays, which options may be left out.

A family's are in the `training.py` beside its `family.py`; a trainer asks for these and knows no family.
How a tensor groups is said by its role in the `ModelSpec`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from golfpack.spec import ModelSpec, TensorSpec

INIT_STD = 0.02


def _matrices(tensor: TensorSpec) -> bool:
    return tensor.role != "vector"


def _as_given(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options)


@dataclass(frozen=True)
class Training:
    """How models of a family are trained.

    Attributes:
        initialise: (module, its spec, generator) -> every parameter filled in place.
        shape: options of a model that nobody described, trainable on a laptop.
        complete: options as given -> the same with those that follow from others.
        decays: whether AdamW and Lion shrink a tensor.
        dropout: whether the module has `nn.Dropout`s, whose rates the trainer sets.
        blocks: module -> its repeated blocks, whose forward passes can be run a second time; None where
            they cannot, or where there are none.
        aliases: config -> further names of tied tensors in files of the family's own system -> the name
            in its ModelSpec.
    """

    initialise: Callable[[nn.Module, ModelSpec, torch.Generator], None]
    shape: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_given
    decays: Callable[[TensorSpec], bool] = _matrices
    dropout: bool = False
    blocks: Callable[[nn.Module], Sequence[nn.Module] | None] = lambda module: None
    aliases: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}


@torch.no_grad()
def fill_normal(
    model: nn.Module,
    spec: ModelSpec,
    generator: torch.Generator,
    vectors: Callable[[str], float],
    residual_std: float = INIT_STD,
) -> None:
    """Matrices ~ N(0, 0.02^2), vectors constant: how GPT-2 and most since begin.

    Args:
        vectors: name of a vector -> its value.
        residual_std: of the matrices that write to the residual stream.
    """
    parameters = dict(model.named_parameters())
    for tensor in spec.tensors:
        if tensor.role == "vector":
            parameters[tensor.name].fill_(vectors(tensor.name))
        else:
            std = residual_std if tensor.role in ("attn_out", "mlp_out") else INIT_STD
            parameters[tensor.name].normal_(0.0, std, generator=generator)


def scaled_std(num_layers: int) -> float:
    """GPT-2's for matrices that write to the residual stream: there are two of them in a block."""
    return INIT_STD / (2.0 * num_layers) ** 0.5


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Torch's own random states begin at `seed`, and are given back as they were.

    For what draws from nowhere else: dropout inside fused attention, and a user's own class.
    """
    on_cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
