"""The Llama family: SmolLM, TinyLlama and their like, Qwen, Mistral, Gemma, llama2.c, Meta's own names.

Tensors have transformers' names and order of rotary channels; checkpoints with Meta's names
("layers.0.attention.wq.weight") are renamed and their query and key rows reordered when read.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import (
    Family,
    Forms,
    StateDict,
    Transformers,
    Writes,
    form_words,
    from_net,
    plain_writes,
    shape_of,
    typed_overrides,
)
from golfpack.models.llama import meta
from golfpack.models.llama.net import Llama, LlamaConfig
from golfpack.models.llama.training import TRAINING
from golfpack.models.llama.transformers_config import TYPES, read_config, write_config
from golfpack.models.transformers_layout import without_copy
from golfpack.spec import Fold, Hook, Role, TensorSpec

_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FIRST = "model.layers.0."
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
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
# Options that the first artifacts of the family lack.
_NEWER = frozenset({
    "attn_bias", "mlp_bias", "qk_norm", "activation", "rope_scaling", "window", "window_layers",
    "window_rope_base", "norm_plus_one", "post_norms", "embed_scaled", "query_scale", "attn_softcap",
    "softcap",
})  # fmt: skip


def _folds(cfg: LlamaConfig) -> tuple[Fold, ...]:
    """Without biases, values pass linearly to `o_proj`, and so does `up_proj` to `down_proj`."""
    shared = cfg.num_heads // cfg.num_kv_heads * cfg.head_dim  # columns fed by one KV head
    columns = range(cfg.num_heads * cfg.head_dim)
    values = tuple(c // shared * cfg.head_dim + c % cfg.head_dim for c in columns)
    units = tuple(range(cfg.mlp_hidden))
    folds = []
    for i in range(cfg.num_layers):
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        if cfg.attn_bias == "none":
            folds.append(Fold(f"{attn}.o_proj.weight", f"{attn}.v_proj.weight", values))
        if not cfg.mlp_bias:
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
    role = _ROLES.get(match[2]) if match and match[3] == "weight" else None
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
        "attn_bias": _attn_bias(state),
        "mlp_bias": _FIRST + "mlp.gate_proj.bias" in state,
        "qk_norm": _FIRST + "self_attn.q_norm.weight" in state,
        "post_norms": _FIRST + "pre_feedforward_layernorm.weight" in state,
    }


def _attn_bias(state: StateDict) -> str:
    if _FIRST + "self_attn.q_proj.bias" not in state:
        return "none"
    return "all" if _FIRST + "self_attn.o_proj.bias" in state else "qkv"


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
    if meta.QUERY in state:
        state = {name: t for name, t in state.items() if not _TABLES.fullmatch(name)}
        state = meta.from_meta(state, _head_dim(state, overrides))
        notes.append("tensors renamed from Meta's names, rows of queries and keys reordered")
    state = _whole(state)
    if not matches(state):
        return state, []
    tables = [name for name in state if _TABLES.fullmatch(name)]
    if tables:
        notes.append(f"{len(tables)} rotary tables left out: they follow from the config")
        state = {name: t for name, t in state.items() if name not in tables}
    if _HEAD not in state and overrides.get("tie_word_embeddings") is False:
        raise UsageError(
            f"the checkpoint has no {_HEAD}, and config.json says that the head is not the embedding",
            "is the checkpoint complete? It may be of the trunk alone",
        )
    state, tied = without_copy(state, _HEAD, _EMBED)
    return state, notes + tied


def _head_dim(state: StateDict, overrides: Mapping[str, Any]) -> int:
    """The width of a head of a checkpoint with Meta's names.

    Raises:
        UsageError: the number of heads is not told, or does not fit.
    """
    heads = overrides.get("num_heads", overrides.get("num_attention_heads"))
    typed = typed_overrides(LlamaConfig, {} if heads is None else {"num_heads": heads})
    q_dim, kv_dim = shape_of(state, meta.QUERY, 2)[0], shape_of(state, meta.KEY, 2)[0]
    return q_dim // _heads(q_dim, kv_dim, typed)


def tell_form(state: StateDict) -> str:
    """Meta's names, the trunk's alone, and a head beside the embedding that it is; see `Forms`."""
    if meta.QUERY in state:
        twice = without_copy(state, meta.HEAD, meta.EMBED)[1]
        return "meta head" if twice else "meta"
    words = [] if _EMBED in state else ["trunk"]
    named = _whole(state)
    if without_copy(named, _HEAD, _EMBED)[1]:
        words.append("head")
    return " ".join(words)


def restore(state: StateDict, config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """Tensors by Meta's names or the trunk's, with the head beside the embedding; see `Forms`."""
    words, out = form_words(form, ["meta", "trunk", "head"]), dict(state)
    if "head" in words:
        out[_HEAD] = out[_EMBED].clone()
    if "meta" in words:
        return meta.to_meta(out, config["head_dim"])
    if "trunk" in words:
        return {name.removeprefix("model."): t for name, t in out.items()}
    return out


def _whole(state: StateDict) -> StateDict:
    """The names of a whole model, of those of its trunk alone."""
    if "embed_tokens.weight" not in state:
        return state
    return {name if name == _HEAD else f"model.{name}": t for name, t in state.items()}


def _transformers_form(form: str) -> str:
    return " ".join(word for word in form.split() if word != "meta")


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


def _writes(model: Llama) -> dict[str, Writes]:
    if model.cfg.post_norms:  # what comes behind a norm is no product of a matrix any more
        return {}
    return plain_writes("model.layers", model.cfg.num_layers, "self_attn.o_proj", "mlp.down_proj")


build, spec = from_net("llama", Llama, LlamaConfig, _tensor_spec, _folds, _NEWER)
LLAMA = Family(
    name="llama",
    about="Llama, Qwen 2 and 3, Mistral and Gemma as transformers write them; Meta's code, llama2.c.",
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
    newer=_NEWER,
    model_types=tuple(TYPES),
    forms=Forms(tell_form, restore),
    transformers=Transformers(write_config, _transformers_form),
    training=TRAINING,
    writes=_writes,
)
