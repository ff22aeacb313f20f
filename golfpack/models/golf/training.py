"""Training of the golf family: initial weights are those that the challenge's baseline starts from.

Source: openai/parameter-golf, `train_gpt.py`, except that block matrices start orthogonal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from golfpack.data.id_lists import word_start_text
from golfpack.data.pieces import PieceList, word_starts
from golfpack.models.golf.attention import rms_norm
from golfpack.models.golf.net import Block, Golf
from golfpack.models.training import FirstAttention, Readout, Training
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


def _loops(model: nn.Module) -> Callable[[bool], None] | None:
    golf = cast(Golf, model)
    return golf.loop if golf.cfg.virtual_layers > golf.cfg.num_layers else None


def _tables(model: nn.Module) -> Sequence[nn.Embedding]:
    golf = cast(Golf, model)
    return (golf.bigram.embed,) if golf.cfg.bigram_size else ()


@torch.no_grad()
def _first_attention(model: nn.Module) -> FirstAttention:
    golf = cast(Golf, model)
    ids = torch.arange(golf.cfg.vocab_size, device=golf.tok_emb.weight.device)
    attention = cast(Block, golf.blocks[golf.cfg.order[0]]).attn
    return FirstAttention(
        rms_norm(golf.embed(ids[:, None]))[:, 0], attention.c_q.weight, attention.c_k.weight,
        golf.cfg.num_heads, golf.cfg.num_kv_heads,
    )  # fmt: skip


def _from_tokenizer(options: Mapping[str, Any], tokenizer: PieceList | None) -> dict[str, Any]:
    """Which tokens start a word, where the model asks and nobody said."""
    asks = str(options.get("bigram_split", False)).lower() in ("true", "1")
    asks |= str(options.get("word_boost", False)).lower() in ("true", "1")
    if not asks or options.get("word_starts"):
        return {}
    return {"word_starts": "none" if tokenizer is None else word_start_text(word_starts(tokenizer))}


TRAINING = Training(
    initialise=initialise,
    shape={"num_layers": 6, "dim": 256, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 768},
    decays=_decays,
    blocks=_blocks,
    from_tokenizer=_from_tokenizer,
    readout=Readout(
        hidden=lambda model, tokens: cast(Golf, model).hidden(tokens),
        logits=lambda model, hidden: cast(Golf, model).logits(hidden),
        cap=lambda model, z: cast(Golf, model).cap(z),
        embed=lambda model, tokens: cast(Golf, model).embed(tokens),
    ),
    loops=_loops,
    first_attention=_first_attention,
    token_table=("bigram_size", "bigram_dim", "bigram_trigram"),
    tables=_tables,
)
