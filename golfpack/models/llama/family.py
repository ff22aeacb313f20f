"""The Llama family: SmolLM, TinyLlama and their like, llama2.c, and Meta's own names.

Tensors have transformers' names and order of rotary channels; checkpoints with Meta's names
("layers.0.attention.wq.weight") are renamed and their query and key rows reordered when read.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import Family, StateDict, from_net, shape_of, typed_overrides
from golfpack.models.llama.net import Llama, LlamaConfig
from golfpack.models.llama.training import TRAINING
from golfpack.models.transformers_layout import check_model_type, refuse_options, without_copy
from golfpack.spec import Fold, Hook, Role, TensorSpec

_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FIRST = "model.layers.0."
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_ROLES: dict[str, Role] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "mlp_in",
    "mlp.up_proj": "mlp_in",
    "mlp.down_proj": "mlp_out",
}
# Angles that some trainers save beside the weights; they follow from the config.
_TABLES = re.compile(r"(?:.*\.)?(?:rotary_emb\.inv_freq|freqs_cos|freqs_sin|rope\.freqs)")
_META = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "ffn_norm": "post_attention_layernorm",
}
_META_NAME = re.compile(r"(layers\.\d+\.)?(.+)\.weight")
_META_QUERY = "layers.0.attention.wq.weight"
# config.json of transformers -> options of ours; those without an entry are not about the function.
_OPTIONS = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "dim",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp_hidden",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
    "max_position_embeddings": "seq_len",
}


def _folds(cfg: LlamaConfig) -> tuple[Fold, ...]:
    """Values pass linearly to `o_proj`, and so does `up_proj` to `down_proj`."""
    shared = cfg.num_heads // cfg.num_kv_heads * cfg.head_dim  # columns fed by one KV head
    columns = range(cfg.num_heads * cfg.head_dim)
    values = tuple(c // shared * cfg.head_dim + c % cfg.head_dim for c in columns)
    units = tuple(range(cfg.mlp_hidden))
    folds = []
    for i in range(cfg.num_layers):
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        folds.append(Fold(f"{attn}.o_proj.weight", f"{attn}.v_proj.weight", values))
        folds.append(Fold(f"{mlp}.down_proj.weight", f"{mlp}.up_proj.weight", units))
    return tuple(folds)


def _tensor_spec(name: str, shape: tuple[int, ...], model: Llama) -> TensorSpec:
    if name == _EMBED:
        head = (Hook("head"),) if model.cfg.tied else ()
        return TensorSpec(
            name, shape, "embed", hooks=(Hook("model.embed_tokens", "embedding"), *head)
        )
    if name == _HEAD:
        return TensorSpec(name, shape, "head", hooks=(Hook("lm_head"),))
    match = _BLOCK.fullmatch(name)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(name.removesuffix(".weight")),))


def matches(state: StateDict) -> bool:
    mlp = _FIRST + "mlp.gate_proj.weight"
    return {_EMBED, _FIRST + "self_attn.q_proj.weight", mlp} <= set(state)


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of a Llama checkpoint; see `Family.infer`."""
    vocab_size, dim = shape_of(state, _EMBED, 2)
    q_dim = shape_of(state, _FIRST + "self_attn.q_proj.weight", 2)[0]
    kv_dim = shape_of(state, _FIRST + "self_attn.k_proj.weight", 2)[0]
    heads = _heads(q_dim, kv_dim, overrides)
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "num_heads": heads,
        "num_kv_heads": kv_dim * heads // q_dim,
        "head_dim": q_dim // heads,
        "mlp_hidden": shape_of(state, _FIRST + "mlp.gate_proj.weight", 2)[0],
        "tied": _HEAD not in state,
    }


def _heads(q_dim: int, kv_dim: int, overrides: Mapping[str, Any]) -> int:
    """The number of heads, which only the user or a stored config can tell."""
    choices = {
        h: kv_dim * h // q_dim
        for h in range(1, q_dim // 2 + 1)
        if q_dim % (2 * h) == 0 and kv_dim * h % q_dim == 0 and h % (kv_dim * h // q_dim) == 0
    }
    if "num_heads" not in overrides:
        listed = ", ".join(f"{h} ({kv} KV)" for h, kv in choices.items())
        raise UsageError(
            f"the checkpoint's shapes leave the number of attention heads open: {listed}",
            "put transformers' config.json beside it, or --set model.num_heads=8",
        )
    heads = overrides["num_heads"]
    if heads not in choices:
        raise UsageError(
            f"{heads} heads do not fit {q_dim} rows of queries and {kv_dim} of keys",
            f"feasible head counts: {', '.join(map(str, choices)) or 'none'}",
        )
    return heads


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Tensors by transformers' names, without rotary tables and without a copy of a tied head."""
    notes = []
    if _META_QUERY in state:
        state = from_meta(state, overrides)
        notes.append("tensors renamed from Meta's names, rows of queries and keys reordered")
    if not matches(state):
        return state, []
    tables = [name for name in state if _TABLES.fullmatch(name)]
    if tables:
        notes.append(f"{len(tables)} rotary tables left out: they follow from the config")
        state = {name: t for name, t in state.items() if name not in tables}
    state, tied = without_copy(state, _HEAD, _EMBED)
    return state, notes + tied


def from_meta(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A state dict with Meta's names and channel order, as transformers has it.

    Raises:
        UsageError: the number of heads is not told, or does not fit.
    """
    state = {name: t for name, t in state.items() if not _TABLES.fullmatch(name)}
    heads = overrides.get("num_heads", overrides.get("num_attention_heads"))
    typed = typed_overrides(LlamaConfig, {} if heads is None else {"num_heads": heads})
    q_dim = shape_of(state, _META_QUERY, 2)[0]
    kv_dim = shape_of(state, "layers.0.attention.wk.weight", 2)[0]
    head_dim = q_dim // _heads(q_dim, kv_dim, typed)
    out = {}
    for name, tensor in state.items():
        if name.endswith(("attention.wq.weight", "attention.wk.weight")):
            tensor = _halves_from_pairs(tensor, head_dim)
        out[_renamed(name)] = tensor
    return out


def _renamed(name: str) -> str:
    match = _META_NAME.fullmatch(name)
    if match is None or match[2] not in _META:
        return name  # not one we know: the check of all names will say so
    return f"model.{match[1]}{_META[match[2]]}.weight" if match[1] else f"{_META[match[2]]}.weight"


def _halves_from_pairs(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows (2i, 2i + 1) of every head -> (i, i + D/2)."""
    if weight.ndim != 2 or weight.shape[0] % head_dim:
        return weight  # misshapen: the check of all shapes will say so
    rows, cols = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, cols)
    return pairs.transpose(1, 2).reshape(rows, cols)


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options from transformers' config.json; see `Family.read_config`."""
    check_model_type(stored, "llama")
    scaling = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise UsageError(
            f"config.json says rope_scaling {scaling!r}", "it must be an object or null"
        )
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    refuse_options(
        {**stored, "rope_type": kind},
        {
            "rope_type": "default",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_interleaved": False,
        },
    )
    options = {ours: stored[key] for key, ours in _OPTIONS.items() if stored.get(key) is not None}
    if "rope_theta" in scaling:
        options["rope_base"] = scaling["rope_theta"]
    if stored.get("tie_word_embeddings") is True:
        options["tied"] = True
    return options


def _max_length(config: Mapping[str, Any]) -> int | None:
    return None  # rotary positions have no table to run out of


def _aliases(config: Mapping[str, Any]) -> dict[str, str]:
    return {_HEAD: _EMBED} if config["tied"] else {}


def _siblings(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What released models of this shape differ in; see `Family.siblings`."""
    return {
        "rope_base": (1000.0, 10000.0, 50000.0, 100000.0, 500000.0, 1000000.0),
        "norm_eps": (1e-6, 1e-5, 1e-3),
    }


build, spec = from_net("llama", Llama, LlamaConfig, _tensor_spec, _folds)
LLAMA = Family(
    name="llama",
    about="Llama as transformers, Meta's code and llama2.c write it: SmolLM, TinyLlama and their like.",
    needs="model.embed_tokens.weight, model.layers.N.self_attn.{q,k,v,o}_proj.weight, "
    "model.layers.N.mlp.{gate,up,down}_proj.weight (or Meta's names: tok_embeddings.weight, "
    "layers.N.attention.w{q,k,v,o}.weight, layers.N.feed_forward.w{1,2,3}.weight)",
    config_type=LlamaConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    read_config=read_config,
    aliases=_aliases,
    siblings=_siblings,
    training=TRAINING,
)
