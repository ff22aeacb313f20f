"""The decoupled-bottleneck family: recognises, describes and builds `bottleneck_net.py`'s network."""

import re
from collections.abc import Mapping
from math import gcd
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import (
    Family,
    Forms,
    StateDict,
    Writes,
    form_words,
    from_net,
    plain_writes,
    shape_of,
)
from golfpack.models.bottleneck.config import BottleneckConfig
from golfpack.models.bottleneck.net import Bottleneck
from golfpack.models.bottleneck.training import TRAINING
from golfpack.spec import Hook, Role, TensorSpec

_ROLES: dict[str, Role] = {
    "attn.q_proj": "attn_q",
    "attn.q_sem": "attn_q",
    "attn.q_geo": "attn_q",
    "attn.k_proj": "attn_k",
    "attn.k_sem": "attn_k",
    "attn.k_geo": "attn_k",
    "attn.v_proj": "attn_v",
    "attn.out_proj": "attn_out",
    "ff.w1": "mlp_in",
    "ff.w2": "mlp_in",
    "ff.w3": "mlp_out",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_KEYS = re.compile(r"(blocks\.\d+\.attn\.)k_(proj|sem|geo)\.weight")
_QUERIES = re.compile(r"(blocks\.\d+\.attn\.)q_(proj|sem|geo)\.weight")

# The source's names of what shapes cannot tell.
_STORED = {
    "n_head": "num_heads", "rope": "rope", "rope_base": "rope_base", "block_size": "seq_len",
}  # fmt: skip


def _tensor_spec(name: str, shape: tuple[int, ...], model: Bottleneck) -> TensorSpec:
    if name == "tok_emb.weight":
        return TensorSpec(name, shape, "embed", hooks=(Hook("tok_emb", "embedding"), Hook("head")))
    module = name.removesuffix(".weight")
    if module in ("emb_in", "emb_out"):
        # As the MLP's: `embed` and `head` are for matrices that meet tokens and logits themselves.
        return TensorSpec(name, shape, _EMB_ROLES[module], hooks=(Hook(module),))
    match = _BLOCK.fullmatch(module)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    if model.cfg.activation == "gelu" and module.endswith("ff.w2"):
        role = "mlp_out"
    return TensorSpec(name, shape, role, block, (Hook(module),))


_EMB_ROLES: dict[str, Role] = {"emb_in": "mlp_in", "emb_out": "mlp_out"}


def matches(state: StateDict) -> bool:
    names = set(state)
    attention = {"blocks.0.attn.q_proj.weight", "blocks.0.attn.q_sem.weight"}
    return {"tok_emb.weight", "blocks.0.ff.w1.weight"} <= names and bool(attention & names)


def adapt(state: StateDict, _overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Drop the keys' matrices where all of them are the queries', as `tie_qk` leaves them."""
    keys = sorted(name for name in state if _KEYS.fullmatch(name))
    if not keys or not all(_same(state, name, _KEYS.sub(r"\1q_\2.weight", name)) for name in keys):
        return state, []
    note = (
        f"{len(keys)} tensors equal others ({keys[0]} and so on are the queries' matrices: tie_qk) "
        "and are kept once"
    )
    return {name: t for name, t in state.items() if name not in keys}, [note]


def tell_form(state: StateDict) -> str:
    """Whether the keys' matrices stand beside the queries' that they are; see `Forms`."""
    return "keys" if len(adapt(state, {})[0]) < len(state) else ""


def restore(state: StateDict, _config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """The keys' matrices again beside the queries'; see `Forms`."""
    if "keys" not in form_words(form, ["keys"]):
        return dict(state)
    copies = {
        _QUERIES.sub(r"\1k_\2.weight", n): t for n, t in state.items() if _QUERIES.fullmatch(n)
    }
    return {**state, **{name: t.clone() for name, t in copies.items()}}


def _same(state: StateDict, name: str, other: str) -> bool:
    a, b = state[name], state.get(other)
    if b is None or a.is_meta or b.is_meta:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: stored[name] for name, ours in _STORED.items() if stored.get(name) is not None}


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of a decoupled-bottleneck checkpoint; see `Family.infer`."""
    attn = "blocks.0.attn."
    vocab_size, embed_dim = shape_of(state, "tok_emb.weight", 2)
    decoupled = f"{attn}q_sem.weight" in state
    told: dict[str, Any] = {
        "vocab_size": vocab_size,
        "embed_dim": embed_dim,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "mlp_hidden": shape_of(state, "blocks.0.ff.w1.weight", 2)[0],
        "dim": shape_of(state, "blocks.0.ff.w1.weight", 2)[1],
        "attn_dim": shape_of(state, f"{attn}out_proj.weight", 2)[1],
        "sem_dim": shape_of(state, f"{attn}q_sem.weight", 2)[0] if decoupled else 0,
        "geo_dim": shape_of(state, f"{attn}q_geo.weight", 2)[0] if decoupled else 0,
        "tie_qk": not any(_KEYS.fullmatch(name) for name in state),
        "null_attn": f"{attn}v_null" in state,
        "learned_temp": f"{attn}logit_scale" in state,
        "activation": "swiglu" if "blocks.0.ff.w3.weight" in state else "gelu",
    }
    heads = _infer_heads(state, told, overrides)
    v_width = shape_of(state, f"{attn}v_proj.weight", 2)[0]
    return told | {"num_heads": heads, "num_kv_heads": max(1, heads * v_width // told["attn_dim"])}


def _infer_heads(state: StateDict, told: Mapping[str, Any], overrides: Mapping[str, Any]) -> int:
    """The number of heads: from `logit_scale`, or from the user where the model has none."""
    if told["learned_temp"]:
        return shape_of(state, "blocks.0.attn.logit_scale", 1)[0]
    if "num_heads" in overrides:
        return overrides["num_heads"]
    widest = gcd(told["attn_dim"], told["sem_dim"], told["geo_dim"])
    listed = ", ".join(str(h) for h in range(1, widest + 1) if widest % h == 0)
    raise UsageError(
        f"the checkpoint's shapes leave the number of attention heads open: {listed}",
        "set it with --set model.num_heads=8",
    )


def _max_length(config: Mapping[str, Any]) -> int | None:
    return None  # rotary positions have no table to run out of


def _writes(model: Bottleneck) -> dict[str, Writes]:
    last = "ff.w3" if model.cfg.activation == "swiglu" else "ff.w2"
    return plain_writes("blocks", model.cfg.num_layers, "attn.out_proj", last)


build, spec = from_net("bottleneck", Bottleneck, BottleneckConfig, _tensor_spec)
BOTTLENECK = Family(
    name="bottleneck",
    about="Decoupled bottleneck attention: semantic and geometric keys of their own widths.",
    needs="tok_emb.weight, blocks.N.attn.q_proj.weight or q_sem.weight, blocks.N.ff.w1.weight",
    config_type=BottleneckConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    read_config=read_config,
    forms=Forms(tell_form, restore),
    training=TRAINING,
    writes=_writes,
)
