"""The GPT-NeoX family: Pythia and its like, as transformers writes them."""

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
)
from golfpack.models.gpt_neox.net import GptNeox, GptNeoxConfig
from golfpack.models.gpt_neox.transformers_config import MODEL_TYPE, read_config, write_config
from golfpack.models.transformers_layout import without_copy
from golfpack.spec import Hook, Role, TensorSpec

_TRUNK = "gpt_neox."
_EMBED, _HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"
_FIRST = "gpt_neox.layers.0."
_BLOCK = re.compile(r"gpt_neox\.layers\.(\d+)\.(.+)")
_ROLES: dict[str, Role] = {
    "attention.query_key_value.weight": "attn_q",  # queries, keys and values in one
    "attention.dense.weight": "attn_out",
    "mlp.dense_h_to_4h.weight": "mlp_in",
    "mlp.dense_4h_to_h.weight": "mlp_out",
}
# Masks and angles that transformers once saved beside the weights.
_TABLES = re.compile(r"gpt_neox\.layers\.\d+\.attention\.(?:bias|masked_bias|rotary_emb\.inv_freq)")


def _tensor_spec(name: str, shape: tuple[int, ...], model: GptNeox) -> TensorSpec:
    module = name.removesuffix(".weight")
    if name == _EMBED:
        head = (Hook("head"),) if model.cfg.tied else ()
        return TensorSpec(name, shape, "embed", hooks=(Hook(module, "embedding"), *head))
    if name == _HEAD:
        return TensorSpec(name, shape, "head", hooks=(Hook(module),))
    match = _BLOCK.fullmatch(name)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(module),))


def matches(state: StateDict) -> bool:
    attention = _FIRST + "attention.query_key_value.weight"
    return {_EMBED, attention, _FIRST + "mlp.dense_h_to_4h.weight"} <= set(state)


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of a GPT-NeoX checkpoint; see `Family.infer`."""
    vocab_size, dim = shape_of(state, _EMBED, 2)
    if not {"num_heads", "rotary_dims"} <= set(overrides):
        raise UsageError(
            "the checkpoint's shapes leave open the number of attention heads and how much of each is "
            "rotated",
            "put transformers' config.json beside it, or --set model.num_heads=8 --set "
            "model.rotary_dims=16",
        )
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "mlp_hidden": shape_of(state, _FIRST + "mlp.dense_h_to_4h.weight", 2)[0],
        "tied": _HEAD not in state,
        "attn_bias": _FIRST + "attention.dense.bias" in state,
    }


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Tensors by the names of a whole model on disk, without tables or a copy of a tied head."""
    named = {_renamed(name): t for name, t in state.items()}
    if not matches(named) or len(named) != len(state):
        return state, []
    tables = [name for name in named if _TABLES.fullmatch(name)]
    notes = (
        [f"{len(tables)} masks and rotary tables left out: they are no weights"] if tables else []
    )
    named = {name: t for name, t in named.items() if name not in tables}
    if _HEAD not in named and overrides.get("tie_word_embeddings") is False:
        raise UsageError(
            f"the checkpoint has no {_HEAD}, and config.json says that the head is not the embedding",
            "is the checkpoint complete? It may be of the trunk alone",
        )
    without, tied = without_copy(named, _HEAD, _EMBED)
    return without, notes + tied


def tell_form(state: StateDict) -> str:
    """The trunk's names alone, the modules' name of the head, a copy of a tied head; see `Forms`."""
    words = [] if _EMBED in state else ["trunk"]
    if "lm_head.weight" in state:
        words.append("lm_head")
    if without_copy({_renamed(n): t for n, t in state.items()}, _HEAD, _EMBED)[1]:
        words.append("head")
    return " ".join(words)


def restore(state: StateDict, _config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """See `Forms`."""
    words, out = form_words(form, ["trunk", "lm_head", "head"]), dict(state)
    if "head" in words:
        out[_HEAD] = out[_EMBED].clone()
    if "lm_head" in words and _HEAD in out:
        out["lm_head.weight"] = out.pop(_HEAD)
    if "trunk" in words:
        return {name.removeprefix(_TRUNK): t for name, t in out.items()}
    return out


def _renamed(name: str) -> str:
    """The name on disk, of one in the trunk alone, or of one as the newest transformers' modules are."""
    if name.startswith("lm_head."):
        return "embed_out." + name.removeprefix("lm_head.")
    return name if name.startswith((_TRUNK, "embed_out.")) else _TRUNK + name


def _max_length(config: Mapping[str, Any]) -> int | None:
    return None  # rotary positions have no table to run out of


def _aliases(config: Mapping[str, Any]) -> dict[str, str]:
    return {_HEAD: _EMBED} if config["tied"] else {}


def _writes(model: GptNeox) -> dict[str, Writes]:
    return plain_writes(
        "gpt_neox.layers", model.cfg.num_layers, "attention.dense", "mlp.dense_4h_to_h"
    )


build, spec = from_net("gpt_neox", GptNeox, GptNeoxConfig, _tensor_spec)
GPT_NEOX = Family(
    name="gpt_neox",
    about="GPT-NeoX as transformers writes it: Pythia and its like.",
    needs="gpt_neox.embed_in.weight, gpt_neox.layers.N.attention.{query_key_value,dense}.weight, "
    "gpt_neox.layers.N.mlp.{dense_h_to_4h,dense_4h_to_h}.weight",
    config_type=GptNeoxConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    read_config=read_config,
    model_types=(MODEL_TYPE,),
    forms=Forms(tell_form, restore),
    transformers=Transformers(write_config, lambda form: form),
    aliases=_aliases,
    writes=_writes,
)
