"""The GPT-2 family, as transformers and nanoGPT write it."""

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
from golfpack.models.gpt2.net import Gpt2, Gpt2Config
from golfpack.models.gpt2.training import TRAINING
from golfpack.models.gpt2.transformers_config import MODEL_TYPE, read_config, write_config
from golfpack.models.transformers_layout import without_copy
from golfpack.spec import Hook, Role, TensorSpec

_PREFIX = "transformer."
_BLOCK = re.compile(r"h\.(\d+)\.(.+)")
_ROLES: dict[str, Role] = {
    "attn.c_attn.weight": "attn_q",  # queries, keys and values in one
    "attn.c_proj.weight": "attn_out",
    "mlp.c_fc.weight": "mlp_in",
    "mlp.c_proj.weight": "mlp_out",
}
_EMBEDDINGS = ("wte", "wpe")
# Causal masks that transformers once saved beside the weights.
_MASKS = re.compile(r"h\.\d+\.attn\.(?:bias|masked_bias)")


def _tensor_spec(name: str, shape: tuple[int, ...], model: Gpt2) -> TensorSpec:
    module = name.removesuffix(".weight")
    if module in _EMBEDDINGS:
        head = (Hook("head"),) if model.cfg.tied and module == "wte" else ()
        return TensorSpec(name, shape, "embed", hooks=(Hook(module, "embedding"), *head))
    if module == "lm_head":
        return TensorSpec(name, shape, "head", hooks=(Hook("lm_head"),))
    match = _BLOCK.fullmatch(name)
    block = int(match[1]) if match else None
    role = _ROLES.get(match[2]) if match else None
    if role is None:
        return TensorSpec(name, shape, "vector", block)
    return TensorSpec(name, shape, role, block, (Hook(module),))


def matches(state: StateDict) -> bool:
    return {"wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight"} <= set(
        state
    )


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of a GPT-2 checkpoint; see `Family.infer`."""
    vocab_size, dim = shape_of(state, "wte.weight", 2)
    if "num_heads" not in overrides:
        divisors = ", ".join(str(h) for h in range(1, dim + 1) if dim % h == 0)
        raise UsageError(
            f"the checkpoint's shapes leave the number of attention heads open: {divisors}",
            "put transformers' config.json beside it, or --set model.num_heads=12",
        )
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(_BLOCK.fullmatch, state) if m}),
        "mlp_hidden": shape_of(state, "h.0.mlp.c_fc.weight", 2)[0],
        "seq_len": shape_of(state, "wpe.weight", 2)[0],
        "tied": "lm_head.weight" not in state,
        "bias": "h.0.attn.c_attn.bias" in state,
    }


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Tensors by the network's names, matrices as (out, in), no masks, no copy of a tied head."""
    bare = {name.removeprefix(_PREFIX): t for name, t in state.items()}
    if not matches(bare) or len(bare) != len(state):
        return state, []
    masks = [name for name in bare if _MASKS.fullmatch(name)]
    notes = [f"{len(masks)} causal masks left out: they are no weights"] if masks else []
    bare = {name: t for name, t in bare.items() if name not in masks}
    if _is_transposed(bare):
        notes.append("matrices transposed from (in, out), as transformers' Conv1D has them")
        bare = {name: t.T if _is_block_matrix(name, t) else t for name, t in bare.items()}
    if "lm_head.weight" not in bare and overrides.get("tie_word_embeddings") is False:
        raise UsageError(
            "the checkpoint has no lm_head.weight, and config.json says that the head is not the "
            "embedding",
            "is the checkpoint complete? It may be of the trunk alone",
        )
    without, tied = without_copy(bare, "lm_head.weight", "wte.weight")
    return without, notes + tied


def _is_transposed(state: StateDict) -> bool:
    """Whether block matrices are (in, out): told by the only one that can never be square."""
    shape = tuple(state["h.0.attn.c_attn.weight"].shape)
    return len(shape) == 2 and 3 * shape[0] == shape[1]


def _is_block_matrix(name: str, tensor: torch.Tensor) -> bool:
    match = _BLOCK.fullmatch(name)
    return match is not None and match[2] in _ROLES and tensor.ndim == 2


def tell_form(state: StateDict) -> str:
    """The prefix of a whole model's names, Conv1D's layout, a head beside the embedding; see `Forms`."""
    bare = {name.removeprefix(_PREFIX): t for name, t in state.items()}
    words = ["transformer."] if any(name.startswith(_PREFIX) for name in state) else []
    if _is_transposed(bare):
        words.append("conv1d")
    if without_copy(bare, "lm_head.weight", "wte.weight")[1]:
        words.append("head")
    return " ".join(words)


def restore(state: StateDict, _config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """See `Forms`."""
    words, out = form_words(form, ["transformer.", "conv1d", "head"]), dict(state)
    if "conv1d" in words:
        out = {n: t.T.contiguous() if _is_block_matrix(n, t) else t for n, t in out.items()}
    if "head" in words:
        out["lm_head.weight"] = out["wte.weight"].clone()
    if "transformer." in words:
        return {n if n.startswith("lm_head.") else _PREFIX + n: t for n, t in out.items()}
    return out


def _transformers_form(form: str) -> str:
    """Conv1D's layout always; the prefix, but where a checkpoint of transformers' had none."""
    if "conv1d" in form.split():
        return form
    return "transformer. conv1d head" if "head" in form.split() else "transformer. conv1d"


def _max_length(config: Mapping[str, Any]) -> int | None:
    return config["seq_len"]


def _aliases(config: Mapping[str, Any]) -> dict[str, str]:
    return {"lm_head.weight": "wte.weight"} if config["tied"] else {}


def _siblings(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The head count leaves no trace in the shapes; see `Family.siblings`."""
    heads = (h for h in range(1, config["dim"] // 8 + 1) if config["dim"] % h == 0)
    return {
        "num_heads": tuple(heads),
        "activation": ("gelu", "gelu_tanh"),
        "norm_eps": (1e-6, 1e-5),
    }


def _writes(model: Gpt2) -> dict[str, Writes]:
    return plain_writes("h", model.cfg.num_layers, "attn.c_proj", "mlp.c_proj")


build, spec = from_net("gpt2", Gpt2, Gpt2Config, _tensor_spec)
GPT2 = Family(
    name="gpt2",
    about="GPT-2 as transformers and nanoGPT write it.",
    needs="wte.weight, wpe.weight, h.N.attn.{c_attn,c_proj}.weight, h.N.mlp.{c_fc,c_proj}.weight",
    config_type=Gpt2Config,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    read_config=read_config,
    aliases=_aliases,
    siblings=_siblings,
    model_types=(MODEL_TYPE,),
    forms=Forms(tell_form, restore),
    transformers=Transformers(write_config, _transformers_form),
    training=TRAINING,
    writes=_writes,
)
