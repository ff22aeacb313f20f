"""config.json of transformers -> options of the llama family, and back.

One table says what each model_type has of its own; both directions read it, so that what one writes the
other reads. Defaults are those of transformers' config classes: they hold where config.json leaves a key
out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from golfpack.errors import UsageError
from golfpack.models.rope import read_scaling, scaling_text
from golfpack.models.transformers_layout import check_model_type, refuse_options, refuse_unknown

# Keys that all types have -> options.
_KEYS = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "dim",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp_hidden",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "seq_len",
}
# Read here as well, each in its own way.
_MORE_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"})
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
}
# The names that are written.
_WRITTEN_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu"}
_LAYERS = {"w": "sliding_attention", "f": "full_attention"}


@dataclass(frozen=True)
class _Type:
    """What a model_type has of its own.

    Attributes:
        architecture: its class for language modelling.
        fixed: options that every model of it has.
        keys: further keys of its config.json -> options.
        defaults: option -> its value where config.json leaves the key out; of the others the family's.
        activation: the key that names the activation.
        biases: whether `attention_bias` says that all of attention's matrices have biases.
        only: key -> the one value that is computed.
        windows: how layers get a window: "none", "all", "qwen" (a switch, and from a layer on), or every
            so many layers one is full, as 2 and 6.
    """

    architecture: str
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    activation: str = "hidden_act"
    biases: bool = False
    only: Mapping[str, Any] = field(default_factory=dict[str, Any])
    windows: str | int = "none"


_GEMMA = {"norm_plus_one": True, "embed_scaled": True}
_CAPS = {
    "query_pre_attn_scalar": "query_scale",
    "final_logit_softcapping": "softcap",
    "attn_logit_softcapping": "attn_softcap",
}
TYPES: dict[str, _Type] = {
    "llama": _Type(
        "LlamaForCausalLM",
        keys={"mlp_bias": "mlp_bias"},
        defaults={"norm_eps": 1e-6, "seq_len": 2048},
        biases=True,
        only={"rope_interleaved": False},
    ),
    "mistral": _Type(
        "MistralForCausalLM", defaults={"norm_eps": 1e-6, "seq_len": 131072}, windows="all"
    ),
    "qwen2": _Type(
        "Qwen2ForCausalLM",
        {"attn_bias": "qkv"},
        defaults={"norm_eps": 1e-6, "seq_len": 32768},
        windows="qwen",
    ),
    "qwen3": _Type(
        "Qwen3ForCausalLM",
        {"qk_norm": True},
        defaults={"norm_eps": 1e-6, "seq_len": 32768},
        biases=True,
        windows="qwen",
    ),
    "gemma": _Type(
        "GemmaForCausalLM",
        _GEMMA,
        defaults={"norm_eps": 1e-6, "seq_len": 8192, "activation": "gelu_tanh"},
        biases=True,
    ),
    "gemma2": _Type(
        "Gemma2ForCausalLM",
        {**_GEMMA, "post_norms": True},
        _CAPS,
        {
            "norm_eps": 1e-6, "seq_len": 8192, "activation": "gelu_tanh", "query_scale": 256.0,
            "softcap": 30.0, "attn_softcap": 50.0,
        },
        "hidden_activation",
        biases=True,
        windows=2,
    ),
    "gemma3_text": _Type(
        "Gemma3ForCausalLM",
        {**_GEMMA, "post_norms": True, "qk_norm": True},
        _CAPS,
        {
            "norm_eps": 1e-6, "seq_len": 131072, "activation": "gelu_tanh", "query_scale": 256.0,
            "rope_base": 1000000.0, "window_rope_base": 10000.0,
        },
        "hidden_activation",
        biases=True,
        windows=6,
    ),
}  # fmt: skip
# Options of which config.json tells nothing, because there is one value for all types.
_ALWAYS = {
    "attn_bias": "none", "mlp_bias": False, "qk_norm": False, "activation": "silu", "rope_scaling": "",
    "window": 0, "window_layers": "w", "window_rope_base": 0.0, "norm_plus_one": False,
    "post_norms": False, "embed_scaled": False, "query_scale": 0.0, "attn_softcap": 0.0, "softcap": 0.0,
    "rope_base": 10000.0,
}  # fmt: skip
# Options of which one says all there is to say of each other.
_WINDOW_KEYS = {
    "none": (),
    "all": ("sliding_window",),
    "qwen": ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
}
_PATTERN_KEYS = (
    "sliding_window",
    "layer_types",
    "sliding_window_pattern",
    "_sliding_window_pattern",
)


def read_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options from transformers' config.json, or from what llama2.c has; see `Family.read_config`.

    Raises:
        UsageError: another model_type, or a variant that is not computed.
    """
    check_model_type(stored, TYPES)
    kind = TYPES[stored.get("model_type", "llama")]
    refuse_options(stored, kind.only)
    refuse_unknown(stored, _known(kind))
    keys = {**_KEYS, **kind.keys}
    # null stands for the class's default among dimensions, and for "none of it" among what may be 0.
    told = {ours: stored[key] for key, ours in keys.items() if stored.get(key) is not None}
    off = {o: _ALWAYS[o] for key, o in kind.keys.items() if key in stored and stored[key] is None}
    if stored.get("tie_word_embeddings") is True:
        told["tied"] = True
    if "model_type" not in stored:  # a trainer's own config, which has no defaults that we know
        return told | _read_rope(stored, kind, {})
    options = {**_ALWAYS, **kind.defaults, **off, **told, **kind.fixed}
    options["activation"] = _read_activation(stored, kind)
    if kind.biases and stored.get("attention_bias"):
        options["attn_bias"] = "all"
    return options | _read_rope(stored, kind, options) | _read_windows(stored, kind)


def write_config(config: Mapping[str, Any], model_type: str | None) -> dict[str, Any]:
    """config.json of transformers for a model of the llama family.

    Args:
        config: the family's complete config.
        model_type: that of the source; None for the first that has such models.

    Raises:
        UsageError: transformers has no class with these options.
    """
    if model_type is not None and model_type not in TYPES:
        raise UsageError(f"model_type {model_type!r} is not of the llama family", None)
    wrong: dict[str, list[str]] = {}
    for name in TYPES if model_type is None else (model_type,):
        written = _written(config, name)
        again = read_config(written)
        wrong[name] = sorted(k for k, v in again.items() if config[k] != v)
        if not wrong[name]:
            return written
    closest = min(wrong, key=lambda name: len(wrong[name]))
    raise UsageError(
        f"no class of transformers has these options together: {closest} has another "
        f"{', '.join(wrong[closest])}",
        "golfpack unpack without --hf writes the weights",
    )


def _known(kind: _Type) -> frozenset[str]:
    windows = _PATTERN_KEYS if isinstance(kind.windows, int) else _WINDOW_KEYS[kind.windows]
    biases = {"attention_bias"} if kind.biases else set()
    acts = (
        {kind.activation, "hidden_act", "hidden_activation"} if _is_gemma(kind) else {"hidden_act"}
    )
    local = {"rope_local_base_freq"} if "window_rope_base" in kind.defaults else set()
    return frozenset(
        {*_KEYS, *_MORE_KEYS, *kind.keys, *kind.only, *windows, *biases, *acts, *local}
    )


def _is_gemma(kind: _Type) -> bool:
    return "norm_plus_one" in kind.fixed


def _read_activation(stored: Mapping[str, Any], kind: _Type) -> str:
    default = _WRITTEN_ACTIVATIONS[kind.defaults.get("activation", "silu")]
    name = stored.get(kind.activation) or default
    if kind.architecture == "GemmaForCausalLM":
        # The first of these files say "gelu" and mean its approximation, as transformers knows.
        name = stored.get("hidden_activation") or name
        name = default if name == "gelu" else name
    if name not in _ACTIVATIONS:
        raise UsageError(
            f"config.json says {kind.activation} {name!r}",
            f"this family computes {', '.join(_ACTIVATIONS)}",
        )
    return _ACTIVATIONS[name]


def _read_rope(
    stored: Mapping[str, Any], kind: _Type, options: Mapping[str, Any]
) -> dict[str, Any]:
    seq_len = options.get("seq_len", stored.get("max_position_embeddings", 2048))
    told = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
    if not isinstance(told, dict):
        raise UsageError(f"config.json says rope_scaling {told!r}", "it must be an object or null")
    found: dict[str, Any] = {}
    local = "window_rope_base" in kind.defaults
    if local and stored.get("rope_local_base_freq") is not None:
        found["window_rope_base"] = stored["rope_local_base_freq"]
    if set(told) & set(_LAYERS.values()):
        if not local:
            raise UsageError(
                "config.json says rope_parameters by kinds of layers, which this model_type has not",
                "it must be one object for all layers",
            )
        window, told = (told.get(_LAYERS[c]) or {} for c in "wf")
        if scaling_text(window, seq_len):
            raise UsageError(
                f"config.json says rope_type {window['rope_type']!r} for sliding_attention; golfpack "
                "scales full_attention alone",
                "write the network as a module and name it with --model FILE.py:CLASS",
            )
        if "rope_theta" in window:
            found["window_rope_base"] = window["rope_theta"]
    if told.get("partial_rotary_factor", 1.0) not in (None, 1.0):
        refuse_options(told, {"partial_rotary_factor": 1.0})
    theta = told.get("rope_theta", stored.get("rope_theta"))
    if theta is not None:
        found["rope_base"] = theta
    scaling = scaling_text(told, seq_len)
    return {**found, "rope_scaling": scaling} if scaling else found


def _read_windows(stored: Mapping[str, Any], kind: _Type) -> dict[str, Any]:
    """`window` and `window_layers`; a window that no layer has is none."""
    if kind.windows == "none":
        return {}
    width = stored.get("sliding_window", 4096)
    if kind.windows == "qwen" and not stored.get("use_sliding_window"):
        width = None
    if not width:
        return {}
    layers = _window_layers(stored, kind)
    return {"window": width, "window_layers": layers} if "w" in layers else {}


def _window_layers(stored: Mapping[str, Any], kind: _Type) -> str:
    """A letter per layer, as short as its repetition allows."""
    if kind.windows == "all":
        return "w"
    letters = {name: letter for letter, name in _LAYERS.items()}
    types, count = stored.get("layer_types"), stored.get("num_hidden_layers")
    if types is not None:
        if not isinstance(types, list) or not types or set(types) - set(letters):
            raise UsageError(
                f"config.json says layer_types {types!r}",
                f"this family has {' and '.join(letters)}",
            )
        return shortest("".join(letters[t] for t in types))
    if isinstance(kind.windows, int):
        period = stored.get("sliding_window_pattern", stored.get("_sliding_window_pattern"))
        return "w" * ((period or kind.windows) - 1) + "f"
    first = stored.get("max_window_layers", 28)
    if type(count) is not int or type(first) is not int:
        raise UsageError(
            "config.json tells a window by layers, and not how many layers there are",
            "add num_hidden_layers",
        )
    return shortest("".join("w" if i >= first else "f" for i in range(count)))


def shortest(letters: str) -> str:
    """The shortest text that gives `letters` when it is repeated and cut."""
    return next(
        letters[:n]
        for n in range(1, len(letters) + 1)
        if all(letters[i] == letters[i % n] for i in range(len(letters)))
    )


def _written(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """config.json as this type would say it; what the type cannot say is left out."""
    kind = TYPES[model_type]
    out: dict[str, Any] = {"architectures": [kind.architecture], "model_type": model_type}
    out |= {key: config[ours] for key, ours in _KEYS.items()}
    for key, ours in kind.keys.items():
        out[key] = config[ours] if config[ours] != 0 or ours == "mlp_bias" else None
    if "query_pre_attn_scalar" in kind.keys:
        scale = config["query_scale"] or float(config["head_dim"])
        out["query_pre_attn_scalar"] = int(scale) if scale == int(scale) else scale
    out[kind.activation] = _WRITTEN_ACTIVATIONS[config["activation"]]
    if kind.biases:
        out["attention_bias"] = config["attn_bias"] == "all"
    out |= _written_rope(config, kind) | _written_windows(config, kind)
    out["tie_word_embeddings"] = config["tied"]
    return out


def _written_rope(config: Mapping[str, Any], kind: _Type) -> dict[str, Any]:
    scaling = read_scaling(config["rope_scaling"]) or {"rope_type": "default"}
    full = {**scaling, "rope_theta": config["rope_base"]}
    if "window_rope_base" not in kind.defaults:
        return {"rope_parameters": full}
    local = config["window_rope_base"] or config["rope_base"]
    window = {"rope_type": "default", "rope_theta": local}
    return {"rope_parameters": {_LAYERS["f"]: full, _LAYERS["w"]: window}}


def _written_windows(config: Mapping[str, Any], kind: _Type) -> dict[str, Any]:
    if kind.windows == "none":
        return {}
    window = config["window"] or None
    if kind.windows == "all":
        return {"sliding_window": window}
    letters, count = config["window_layers"] if window else "f", config["num_layers"]
    types = {"layer_types": [_LAYERS[letters[i % len(letters)]] for i in range(count)]}
    if kind.windows == "qwen":
        return {"use_sliding_window": window is not None, "sliding_window": window, **types}
    return {"sliding_window": window, **types}
