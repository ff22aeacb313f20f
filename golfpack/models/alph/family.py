"""The ALPH family: recognises, describes and builds the network of `alph_net.py`."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.alph.net import Alph, AlphConfig
from golfpack.models.alph.training import TRAINING
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
from golfpack.spec import Hook, Role, TensorSpec

_ROLES: dict[str, Role] = {
    "attn.wq": "attn_q",
    "attn.wk": "attn_k",
    "attn.wv": "attn_v",
    "attn.wo": "attn_out",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}
_BLOCK = re.compile(r"layer\.(\d+)\.(.+)")
_MATRIX = re.compile(r"wte|wpe|lmHead|layer\.\d+\.(?:attn\.w[qkvo]|mlp\.fc[12])")
_FUSED = re.compile(r"(layer\.\d+\.attn\.)wqkv")

# The source's names of what shapes cannot tell.
_STORED = {"nHead": "num_heads", "softCap": "score_cap"}


def _tensor_spec(name: str, shape: tuple[int, ...], _model: Alph) -> TensorSpec:
    module = name.removesuffix(".weight")
    if module in ("wte", "wpe"):
        return TensorSpec(name, shape, "embed", hooks=(Hook(module, "embedding"),))
    if module == "lmHead":
        return TensorSpec(name, shape, "head", hooks=(Hook(module),))
    match = _BLOCK.fullmatch(module)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(module),))


def matches(state: StateDict) -> bool:
    return {"wte.weight", "wpe.weight", "layer.0.attn.wq.weight"} <= set(state)


def adapt(state: StateDict, _overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Name matrices as modules do, and split the fused projection of later checkpoints."""
    if "wte" not in state:
        return state, []
    adapted: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if fused := _FUSED.fullmatch(name):
            rows = shape_of(state, name, 2)[0]
            if rows % 3:
                raise UsageError(
                    f"tensor {name!r} has {rows} rows, not as many for each of q, k and v",
                    "is the checkpoint damaged?",
                )
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                adapted[f"{fused[1]}w{part}.weight"] = piece
        else:
            adapted[f"{name}.weight" if _MATRIX.fullmatch(name) else name] = tensor
    note = "matrices are named as modules name them: wte is wte.weight"
    if len(adapted) > len(state):
        note += "; attn.wqkv is split into wq, wk and wv"
    return adapted, [note]


def tell_form(state: StateDict) -> str:
    """Whether names are those of ALPH files, and the projection is fused; see `Forms`."""
    if "wte" not in state:
        return ""
    return "alph fused" if any(_FUSED.fullmatch(name) for name in state) else "alph"


def restore(state: StateDict, config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """Tensors by the names of ALPH files; see `Forms`."""
    words, out = form_words(form, ["alph", "fused"]), dict(state)
    if "fused" in words:
        for i in range(config["num_layers"]):
            parts = [out.pop(f"layer.{i}.attn.w{part}.weight") for part in "qkv"]
            out[f"layer.{i}.attn.wqkv.weight"] = torch.cat(parts)
    if "alph" not in words:
        return out
    bare = {name: name.removesuffix(".weight") for name in out}
    return {
        short if _MATRIX.fullmatch(short) or _FUSED.fullmatch(short) else name: out[name]
        for name, short in bare.items()
    }


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What shapes cannot tell; later programs have activations that this family lacks."""
    activation = stored.get("ffnActivation") or "gelu"
    if activation != "gelu":
        raise UsageError(
            f"the checkpoint's activation is {activation!r}; the alph family has gelu",
            "see docs/writing_a_family.md to add it",
        )
    return {ours: stored[name] for name, ours in _STORED.items() if stored.get(name) is not None}


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of an ALPH checkpoint; see `Family.infer`."""
    vocab_size, dim = shape_of(state, "wte.weight", 2)
    if "num_heads" not in overrides:
        listed = ", ".join(str(h) for h in range(1, dim + 1) if dim % h == 0)
        raise UsageError(
            f"the checkpoint's shapes leave the number of attention heads open: {listed}",
            "set it with --set model.num_heads=8",
        )
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        "seq_len": shape_of(state, "wpe.weight", 2)[0],
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "mlp_hidden": shape_of(state, "layer.0.mlp.fc1.weight", 2)[0],
    }


def _max_length(config: Mapping[str, Any]) -> int | None:
    return config["seq_len"]


def _writes(model: Alph) -> dict[str, Writes]:
    return plain_writes("layer", model.cfg.num_layers, "attn.wo", "mlp.fc2")


build, spec = from_net("alph", Alph, AlphConfig, _tensor_spec)
ALPH = Family(
    name="alph",
    about="alpha2's binary checkpoints, with their tokenizer inside.",
    needs="wte, wpe, lmHead, layer.N.attn.{wq,wk,wv,wo}, layer.N.mlp.{fc1,fc2}",
    config_type=AlphConfig,
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
