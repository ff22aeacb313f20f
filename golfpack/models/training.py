"""What a family tells a trainer: how its models begin, what decays, which options may be left out.

A family's are in the `training.py` beside its `family.py`; a trainer asks for these and knows no family.
How a tensor groups is said by its role in the `ModelSpec`.
"""

import math
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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at a step, as far as checkpoints of a family's own system tell of it.

    Attributes:
        options: of the model.
        dropout, seed: of the training.
        step: steps taken.
        weights: by the names of the ModelSpec; tied ones once.
        moments: AdamW's first and second of each of them; None under another optimiser.
        updates: how often AdamW has updated them.
        best_val: lowest validation loss so far, nats per token; infinite before the first.
        tokenizer: as such checkpoints carry it, or None.
    """

    options: Mapping[str, Any]
    dropout: float
    seed: int
    step: int
    weights: Mapping[str, torch.Tensor]
    moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None
    updates: int = 0
    best_val: float = math.inf
    tokenizer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SystemForm:
    """How the program that a family comes from has its checkpoints.

    Attributes:
        config: (options of the model, dropout) -> the model's configuration by that program's names.
            Raises UsageError for a model that it cannot make.
        write: a run at a step -> name and content of its checkpoint of that step.
        pattern: of the names of those checkpoints, as `glob` takes it.
        moments: whether AdamW's belong in it; else it is a file of torch's.
    """

    config: Callable[[Mapping[str, Any], float], dict[str, Any]]
    write: Callable[[Snapshot], tuple[str, bytes]]
    pattern: str
    moments: bool = False


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
        score_parts: config -> parts that stand side by side in every head's queries and keys, whose
            scores add up: name -> width; {} where there is one.
        system: how that system has its checkpoints; None: it has none, or has them as torch saves them.
    """

    initialise: Callable[[nn.Module, ModelSpec, torch.Generator], None]
    shape: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_given
    decays: Callable[[TensorSpec], bool] = _matrices
    dropout: bool = False
    blocks: Callable[[nn.Module], Sequence[nn.Module] | None] = lambda module: None
    aliases: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}
    score_parts: Callable[[Mapping[str, Any]], Mapping[str, int]] = lambda config: {}
    system: SystemForm | None = None


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
