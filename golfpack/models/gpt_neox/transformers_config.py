"""config.json of transformers' GPT-NeoX -> options of the family, and back."""

from collections.abc import Mapping
from typing import Any

from golfpack.errors import UsageError
from golfpack.models.rope import read_scaling, scaling_text
from golfpack.models.transformers_layout import check_model_type, refuse_unknown

MODEL_TYPE = "gpt_neox"
_KEYS = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_hidden",
    "max_position_embeddings": "seq_len",
    "use_parallel_residual": "parallel",
    "attention_bias": "attn_bias",
    "layer_norm_eps": "norm_eps",
}
# Read here as well, each in its own way. `is_decoder` says what every model for text is.
_MORE_KEYS = frozenset({
    "hidden_act", "rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "rotary_pct",
    "partial_rotary_factor", "tie_word_embeddings", "is_decoder",
})  # fmt: skip
# Where config.json leaves them out.
_DEFAULTS = {"seq_len": 2048, "parallel": True, "attn_bias": True, "norm_eps": 1e-5}
_BASE, _PART = 10000.0, 0.25
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options from config.json; see `Family.read_config`.

    Raises:
        UsageError: another model_type, or a variant that is not computed.
    """
    check_model_type(stored, [MODEL_TYPE])
    refuse_unknown(stored, {*_KEYS, *_MORE_KEYS})
    told = {ours: stored[key] for key, ours in _KEYS.items() if stored.get(key) is not None}
    if stored.get("tie_word_embeddings") is True:
        told["tied"] = True
    if "model_type" not in stored:  # a trainer's own config, which has no defaults that we know
        return told
    options = {**_DEFAULTS, **told}
    name = stored.get("hidden_act") or "gelu"
    if name not in _ACTIVATIONS:
        raise UsageError(
            f"config.json says hidden_act {name!r}",
            f"this family computes {', '.join(_ACTIVATIONS)}",
        )
    rope = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UsageError(f"config.json says rope_scaling {rope!r}", "it must be an object or null")
    base = stored.get("rope_theta", stored.get("rotary_emb_base", _BASE))
    part = stored.get("partial_rotary_factor", stored.get("rotary_pct", _PART))
    part = rope.get("partial_rotary_factor", part)
    heads, dim = told.get("num_heads"), told.get("dim")
    if (
        type(heads) is not int
        or type(dim) is not int
        or heads < 1
        or type(part) not in (int, float)
    ):
        raise UsageError(
            "config.json tells no hidden_size, num_attention_heads and rotary_pct to know a head by",
            "complete it",
        )
    return {
        **options,
        "activation": _ACTIVATIONS[name],
        "rotary_dims": int(dim // heads * part),
        "rope_base": rope.get("rope_theta", base),
        "rope_scaling": scaling_text(rope, options["seq_len"]),
    }


def write_config(config: Mapping[str, Any], _model_type: str | None) -> dict[str, Any]:
    """config.json of transformers for a model of the family."""
    scaling = read_scaling(config["rope_scaling"]) or {"rope_type": "default"}
    head = config["dim"] // config["num_heads"]
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": MODEL_TYPE,
        **{key: config[ours] for key, ours in _KEYS.items()},
        "hidden_act": "gelu" if config["activation"] == "gelu" else "gelu_new",
        "rope_parameters": {
            **scaling,
            "rope_theta": config["rope_base"],
            "partial_rotary_factor": _part(config["rotary_dims"], head),
        },
        "tie_word_embeddings": config["tied"],
    }


def _part(rotary_dims: int, head: int) -> float:
    """The part of a head's width that is `rotary_dims` again once it is multiplied and cut off."""
    part = rotary_dims / head
    return part if int(head * part) == rotary_dims else (rotary_dims + 0.25) / head
