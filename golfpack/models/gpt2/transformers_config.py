"""config.json of transformers' GPT-2, or nanoGPT's `model_args` -> options of the family, and back."""

from collections.abc import Mapping
from typing import Any

from golfpack.errors import UsageError
from golfpack.models.transformers_layout import check_model_type, refuse_options, refuse_unknown

MODEL_TYPE = "gpt2"
_KEYS = {
    "vocab_size": "vocab_size",
    "n_layer": "num_layers",
    "n_embd": "dim",
    "n_head": "num_heads",
    "n_inner": "mlp_hidden",
    "n_positions": "seq_len",
    "layer_norm_epsilon": "norm_eps",
}
_NANOGPT = {"block_size": "seq_len"}
# `n_ctx` says again what `n_positions` says.
_MORE_KEYS = frozenset({"activation_function", "tie_word_embeddings", "n_ctx"})
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
}
_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options from transformers' config.json, or nanoGPT's `model_args`; see `Family.read_config`.

    Raises:
        UsageError: another model_type, or a variant that is not computed.
    """
    check_model_type(stored, [MODEL_TYPE])
    refuse_options(stored, _ONLY)
    refuse_unknown(stored, {*_KEYS, *_MORE_KEYS, *_ONLY})
    keys = {**_KEYS, **_NANOGPT}
    options = {ours: stored[key] for key, ours in keys.items() if stored.get(key) is not None}
    if "model_type" in stored:
        options = {"norm_eps": 1e-5, **options}
    if stored.get("tie_word_embeddings") is True:
        options["tied"] = True
    # nanoGPT names no activation: it has the exact one.
    default = "gelu_new" if "model_type" in stored else "gelu"
    function = str(stored.get("activation_function", default))
    if function not in _ACTIVATIONS:
        raise UsageError(
            f"config.json says activation_function {function!r}",
            f"this family computes {', '.join(_ACTIVATIONS)}",
        )
    return {**options, "activation": _ACTIVATIONS[function]}


def write_config(config: Mapping[str, Any], _model_type: str | None) -> dict[str, Any]:
    """config.json of transformers for a model of the family.

    Raises:
        UsageError: a model without biases, as nanoGPT may have; transformers' always have them.
    """
    if not config["bias"]:
        raise UsageError(
            "transformers' GPT-2 has biases, and this model has none",
            "golfpack unpack without --hf writes the weights",
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": MODEL_TYPE,
        **{key: config[ours] for key, ours in _KEYS.items()},
        "activation_function": "gelu_new" if config["activation"] == "gelu_tanh" else "gelu",
        "tie_word_embeddings": config["tied"],
    }
