"""The parameter-golf family: recognises, describes and builds the network of `golf_net.py`."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import Family, StateDict
from golfpack.models.golf_net import Golf, GolfConfig
from golfpack.packer.ir import Fold, Hook, ModelSpec, Role, TensorSpec

_ROLES: dict[str, Role] = {
    "attn.c_q.weight": "attn_q",
    "attn.c_k.weight": "attn_k",
    "attn.c_v.weight": "attn_v",
    "attn.proj.weight": "attn_out",
    "mlp.fc.weight": "mlp_in",
    "mlp.gate_up.weight": "mlp_in",
    "mlp.proj.weight": "mlp_out",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _on_meta(config: Mapping[str, Any]) -> Golf:
    # Built without memory, so that no initialiser draws from the caller's random state.
    with torch.device("meta"):
        return Golf(GolfConfig(**config))


def build(config: Mapping[str, Any]) -> nn.Module:
    return _on_meta(config).to_empty(device="cpu").eval()


def spec(config: Mapping[str, Any]) -> ModelSpec:
    model = _on_meta(config)
    tensors = tuple(_tensor_spec(n, tuple(p.shape), model) for n, p in model.named_parameters())
    return ModelSpec("golf", dataclasses.asdict(model.cfg), tensors, _folds(model.cfg))


def _folds(cfg: GolfConfig) -> tuple[Fold, ...]:
    """Values pass linearly to `attn.proj`; the MLP's squared units are of degree 2, `up` is linear."""
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
        folds.append(Fold(f"{attn}.proj.weight", f"{attn}.c_v.weight", values))
        folds.append(Fold(f"{mlp}.proj.weight", f"{mlp}.{hidden}.weight", units, power))
    return tuple(folds)


def _tensor_spec(name: str, shape: tuple[int, ...], model: Golf) -> TensorSpec:
    if name == "tok_emb.weight":
        head = (Hook("head"),) if model.cfg.tied else ()
        return TensorSpec(name, shape, "embed", hooks=(Hook("tok_emb", "embedding"), *head))
    if name == "lm_head.weight":
        return TensorSpec(name, shape, "head", hooks=(Hook("lm_head"),))
    match = _BLOCK.fullmatch(name)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(name.removesuffix(".weight")),))


def matches(state: StateDict) -> bool:
    return {"tok_emb.weight", "blocks.0.attn.c_q.weight"} <= set(state)


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of a golf checkpoint; see `Family.infer`."""
    swiglu = "blocks.0.mlp.gate_up.weight" in state
    mlp_in = "blocks.0.mlp.gate_up.weight" if swiglu else "blocks.0.mlp.fc.weight"
    vocab_size, dim = _shape(state, "tok_emb.weight", 2)
    told: dict[str, Any] = {
        "vocab_size": vocab_size,
        "dim": dim,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "mlp_hidden": _shape(state, mlp_in, 2)[0] // (2 if swiglu else 1),
        "passes": _shape(state, "pass_gate", 2)[0] if "pass_gate" in state else 1,
        "tied": "lm_head.weight" not in state,
    }
    if swiglu:
        told["activation"] = "swiglu"
    elif overrides.get("activation") == "swiglu":
        raise UsageError(
            "activation swiglu needs tensors named mlp.gate_up.weight; this checkpoint has mlp.fc",
            "choose relu2 or leaky_relu2",
        )
    return told | _infer_heads(state, dim, overrides)


def _infer_heads(state: StateDict, dim: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Head counts: from `q_gain`, or from the user where the model has none."""
    kv_name = "blocks.0.attn.c_k.weight"
    kv_dim = _shape(state, kv_name, 2)[0]
    choices = {
        h: kv_dim * h // dim
        for h in range(1, dim // 2 + 1)
        if dim % (2 * h) == 0 and kv_dim * h % dim == 0 and h % (kv_dim * h // dim) == 0
    }
    if has_gain := "blocks.0.attn.q_gain" in state:
        heads = _shape(state, "blocks.0.attn.q_gain", 1)[0]
    elif "num_heads" in overrides:
        heads = overrides["num_heads"]
    else:
        listed = ", ".join(f"{h} ({kv} KV)" for h, kv in choices.items())
        raise UsageError(
            f"the checkpoint's shapes leave the number of attention heads open: {listed}",
            "set it with --set model.num_heads=8",
        )
    if heads not in choices:
        raise UsageError(
            f"tensor {kv_name!r} has {kv_dim} rows, which do not fit {heads} heads over dim {dim}",
            f"feasible head counts: {', '.join(map(str, choices)) or 'none'}",
        )
    return {"num_heads": heads, "num_kv_heads": choices[heads], "q_gain": has_gain}


def _shape(state: StateDict, name: str, ndim: int) -> tuple[int, ...]:
    if name not in state:
        raise UsageError(f"the checkpoint has no tensor {name!r}", "is the checkpoint complete?")
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise UsageError(f"tensor {name!r} has shape {shape}, expected {ndim} non-zero dimensions")
    return shape


def _max_length(config: Mapping[str, Any]) -> int | None:
    return None  # rotary positions have no table to run out of


GOLF = Family(
    name="golf",
    needs="tok_emb.weight, blocks.N.attn.{c_q,c_k,c_v,proj}.weight, blocks.N.mlp.{fc,proj}.weight",
    config_type=GolfConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
)
