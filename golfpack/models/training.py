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

from golfpack.data.pieces import PieceList
from golfpack.spec import ModelSpec, TensorSpec

INIT_STD = 0.02


def _matrices(tensor: TensorSpec) -> bool:
    return tensor.role != "vector"


def _as_given(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options)


def _nothing(options: Mapping[str, Any], tokenizer: PieceList | None) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Readout:
    """Where a model's forward pass can be taken apart: what auxiliary losses are computed from.

    Attributes:
        hidden: (module, tokens (B, T)) -> what its head reads, (B, T, W).
        logits: (module, hidden) -> logits (B, T, V), those of a forward pass of the module.
        cap: (module, products (..., V) of a head) -> logits, whatever head they are of.
        embed: (module, tokens (B, T)) -> what the first block reads, (B, T, D).
    """

    hidden: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    logits: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    cap: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class FirstAttention:
    """The first block's attention, as far as its scores depend on tokens alone.

    Attributes:
        inputs: (V, D) what it reads at each token of the vocabulary, alone in a sequence.
        queries, keys: (heads * d, D) and (kv_heads * d, D), heads one after the other; each key head
            serves heads / kv_heads query heads in a row.
        heads, kv_heads: how many there are.
    """

    inputs: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    heads: int
    kv_heads: int


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
        from_tokenizer: (options, the tokens' tokenizer) -> options that it decides; without a tokenizer,
            stand-ins of the same shapes, for a plan.
        readout: how a forward pass comes apart, or None where it does not.
        loops: module -> a switch that runs its repeated blocks once each (False) or as often as its
            options say (True); None where no block is repeated.
        first_attention: module -> its first block's attention, or None where it is of another form.
        score_parts: config -> parts that stand side by side in every head's queries and keys, whose
            scores add up: name -> width; {} where there is one.
        token_table: the options that say rows and width of a table of hashed token pairs, whose lookups
            take next to no time, and whether triples are looked up there, too; None: there is none.
        tables: module -> embeddings whose weights are read by looking up rows, and in no other way: not
            those of tokens that a head is tied to.
        system: how that system has its checkpoints; None: it has none, or has them as torch saves them.
    """

    initialise: Callable[[nn.Module, ModelSpec, torch.Generator], None]
    shape: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_given
    decays: Callable[[TensorSpec], bool] = _matrices
    dropout: bool = False
    blocks: Callable[[nn.Module], Sequence[nn.Module] | None] = lambda module: None
    aliases: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}
    from_tokenizer: Callable[[Mapping[str, Any], PieceList | None], dict[str, Any]] = _nothing
    readout: Readout | None = None
    loops: Callable[[nn.Module], Callable[[bool], None] | None] = lambda module: None
    first_attention: Callable[[nn.Module], FirstAttention | None] = lambda module: None
    score_parts: Callable[[Mapping[str, Any]], Mapping[str, int]] = lambda config: {}
    token_table: tuple[str, str, str] | None = None
    tables: Callable[[nn.Module], Sequence[nn.Embedding]] = lambda module: ()
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
