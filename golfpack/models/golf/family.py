"""The parameter-golf family: recognises, describes and builds the network of `golf_net.py`."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from golfpack.data.id_lists import word_start_text
from golfpack.errors import UsageError
from golfpack.models.base import Family, Forms, StateDict, Writes, from_net, writes_of
from golfpack.models.golf.adapt import adapt, restore, tell_form
from golfpack.models.golf.config import FIRST_OPTIONS, GolfConfig
from golfpack.models.golf.infer import BLOCK, infer
from golfpack.models.golf.net import Block, Golf
from golfpack.models.golf.siblings import siblings
from golfpack.models.golf.training import TRAINING
from golfpack.spec import Fold, Hook, Role, TensorSpec

_BLOCK_ROLES: dict[str, Role] = {
    "attn.c_q.weight": "attn_q",
    "attn.c_k.weight": "attn_k",
    "attn.c_v.weight": "attn_v",
    "attn.proj.weight": "attn_out",
    "mlp.fc.weight": "mlp_in",
    "mlp.gate_up.weight": "mlp_in",
    "mlp.proj.weight": "mlp_out",
}
# Projections outside blocks go by what they resemble: by where they write to, or else read from.
_OTHER_ROLES: dict[str, Role] = {
    "lm_head.weight": "head",
    "bigram.proj.weight": "mlp_out",
    "ve_shared.proj.weight": "attn_v",
    "embed_proj.weight": "mlp_in",
    "head_proj.weight": "mlp_in",
}
_TABLES = ("tok_emb.weight", "bigram.embed.weight", "ve_shared.embed.weight")


def _folds(cfg: GolfConfig) -> tuple[Fold, ...]:
    """Values pass linearly to `attn.proj`; the MLP's squared units are of degree 2, `up` is linear.

    Not so where values are normalised (XSA) or meet values from elsewhere.
    """
    plain = not cfg.xsa_last_n and cfg.value_residual == "none" and not cfg.value_embed_dim
    shared = cfg.num_heads // cfg.num_kv_heads * cfg.head_dim  # columns of proj fed by one KV head
    values = tuple(c // shared * cfg.head_dim + c % cfg.head_dim for c in range(cfg.dim))
    if cfg.activation == "swiglu":
        hidden, power, first = "gate_up", 1, cfg.mlp_hidden
    else:
        hidden, power, first = "fc", 2, 0
    units = tuple(range(first, first + cfg.mlp_hidden))
    folds = []
    for i in range(cfg.num_layers):
        attn, mlp = f"blocks.{i}.attn", f"blocks.{i}.mlp"
        if plain:
            folds.append(Fold(f"{attn}.proj.weight", f"{attn}.c_v.weight", values))
        folds.append(Fold(f"{mlp}.proj.weight", f"{mlp}.{hidden}.weight", units, power))
    return tuple(folds)


def tensor_spec(name: str, shape: tuple[int, ...], model: Golf) -> TensorSpec:
    """What a parameter of the network does in it."""
    module = name.removesuffix(".weight")
    if name in _TABLES:
        head = (Hook("head"),) if name == "tok_emb.weight" and model.cfg.tied else ()
        return TensorSpec(name, shape, "embed", hooks=(Hook(module, "embedding"), *head))
    match = BLOCK.fullmatch(name)
    block = int(match[1]) if match else None
    role = _BLOCK_ROLES.get(match[2]) if match else _OTHER_ROLES.get(name)
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(module),))


def matches(state: StateDict) -> bool:
    return {"tok_emb.weight", "blocks.0.attn.c_q.weight"} <= set(state)


def _max_length(config: Mapping[str, Any]) -> int | None:
    return None  # rotary positions have no table to run out of


def from_tokenizer(state: StateDict, overrides: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Which tokens start a word, where the model asks; see `Family.from_tokenizer`."""
    split = str(overrides.get("bigram_split", False)).lower() in ("true", "1")
    if not split and "word_start_boost" not in state:
        return {}
    from golfpack.data.pieces import word_starts  # few models need these
    from golfpack.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    vocab_size = state["tok_emb.weight"].shape[0]
    if tokenizer.vocab_size() != vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size()} pieces, the model {vocab_size} outputs",
            "give the tokenizer the model was trained with",
        )
    return {"word_starts": word_start_text(word_starts(tokenizer))}


def _writes(model: Golf) -> dict[str, Writes]:
    """Attention, then the MLP, on the stream as a block mixes it; two lanes do not call their blocks."""
    found: dict[str, Writes] = {}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        names = f"blocks.{i}.attn.proj.weight", f"blocks.{i}.mlp.proj.weight"
        factors = block.attn_scale, block.mlp_scale
        found |= writes_of(f"blocks.{i}", names, partial(_mixed, block), factors)
    return found


def _mixed(block: Block, args: tuple[Any, ...]) -> torch.Tensor:
    return block.mix(args[0], args[1])


NEWER = frozenset(f.name for f in dataclasses.fields(GolfConfig)) - FIRST_OPTIONS
build, spec = from_net("golf", Golf, GolfConfig, tensor_spec, _folds, NEWER)


def _uncached(config: Mapping[str, Any], positions: int) -> str | None:
    """By ntk every key is turned by an angle that the whole sequence's length decides."""
    if config["rope_scaling"] == "ntk" and positions > config["rope_train_len"]:
        return f"rope_scaling=ntk beyond {config['rope_train_len']} positions"
    return None


GOLF = Family(
    name="golf",
    about="The parameter-golf challenge's baseline and its records.",
    needs="tok_emb.weight, blocks.N.attn.{c_q,c_k,c_v,proj}.weight, blocks.N.mlp.{fc,proj}.weight, "
    "the latter also in banks",
    config_type=GolfConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    from_tokenizer=from_tokenizer,
    siblings=siblings,
    newer=NEWER,
    forms=Forms(tell_form, restore),
    uncached=_uncached,
    training=TRAINING,
    writes=_writes,
)
