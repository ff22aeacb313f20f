"""Rotary frequencies, with the scalings that transformers' config.json may ask for.

Sources: linear, kaiokendev (2023); dynamic NTK, bloc97 and emozilla (2023); yarn, Peng et al., arXiv
2309.00071, sections 3.2 and 3.3; llama3, Meta's Llama 3.1 code, `apply_scaling`. Keys are those of
transformers' `rope_parameters`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError

# rope_type -> keys it must have, and keys it may have.
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), (),
    ),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}  # fmt: skip
# Keys of `rope_parameters` that are not about scaling.
_BASE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def scaling_text(told: Mapping[str, Any], seq_len: int) -> str:
    """The option `rope_scaling`: canonical JSON of what config.json says; "" where nothing is scaled.

    Args:
        told: `rope_parameters` or `rope_scaling` of config.json.
        seq_len: `max_position_embeddings`, which stands in for the length before scaling.

    Raises:
        UsageError: another rope_type than those above, or a key that it does not have.
    """
    kind = told.get("rope_type", told.get("type", "default"))
    if kind == "default":
        given = {k: v for k, v in told.items() if k not in _BASE_KEYS and v is not None}
        if given:
            raise UsageError(
                f"config.json says {min(given)} {given[min(given)]!r} for rope_type 'default'",
                "correct rope_parameters: the default type scales nothing",
            )
        return ""
    scaling = {k: v for k, v in told.items() if k not in _BASE_KEYS and v is not None}
    if kind in _KEYS and "original_max_position_embeddings" in _KEYS[kind][0]:
        scaling.setdefault("original_max_position_embeddings", seq_len)
    # Two types leave it alone, though transformers writes it for them.
    elif scaling.get("original_max_position_embeddings") == seq_len:
        del scaling["original_max_position_embeddings"]
    text = json.dumps({"rope_type": kind, **scaling}, sort_keys=True, separators=(",", ":"))
    read_scaling(text)
    return text


def read_scaling(text: str) -> dict[str, Any]:
    """What the option `rope_scaling` says, checked; {} for "".

    Raises:
        UsageError: it is no JSON object, or not as `rope_parameters` are.
    """
    if not text:
        return {}
    try:
        scaling = json.loads(text)
    except (ValueError, RecursionError):
        scaling = None
    if not isinstance(scaling, dict):
        raise UsageError(
            f"model option rope_scaling cannot be {text!r}", 'it takes {"rope_type": ...}'
        )
    kind = scaling.get("rope_type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UsageError(
            f"config.json says rope_type {kind!r}; golfpack computes default, {', '.join(_KEYS)}",
            "write the network as a module and name it with --model FILE.py:CLASS",
        )
    _check_scaling(scaling, kind)
    return scaling


def _check_scaling(scaling: Mapping[str, Any], kind: str) -> None:
    required, optional = _KEYS[kind]
    if absent := [key for key in required if key not in scaling]:
        raise UsageError(
            f"rope_type {kind!r} needs {', '.join(absent)}", "complete rope_parameters"
        )
    for key, value in scaling.items():
        if key == "rope_type":
            continue
        if key not in (*required, *optional):
            raise UsageError(f"rope_type {kind!r} has no {key}", "correct rope_parameters")
        good = isinstance(value, bool) if key == "truncate" else _is_positive(value)
        if not good:
            raise UsageError(f"rope_scaling's {key} cannot be {value!r}", "correct rope_parameters")
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise UsageError("rope_scaling's low_freq_factor must be below its high_freq_factor", None)


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def frequencies(
    width: int,
    base: float,
    scaling: Mapping[str, Any],
    seq_len: int,
    length: int,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, float]:
    """Angles per position of every pair of channels, and what cosines and sines are multiplied by.

    Args:
        width: channels that are rotated, an even number.
        scaling: as `read_scaling` gives it.
        seq_len: the length the model says it takes.
        length: of the sequence at hand, on which `dynamic` alone depends.

    Returns:
        (width / 2,) float32, and the factor.
    """
    kind, factor = scaling.get("rope_type"), scaling.get("factor", 1.0)
    if kind == "dynamic":
        stretch = factor * max(length, seq_len) / seq_len - (factor - 1)
        base = base * stretch ** (width / (width - 2))
    powers = base ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    if kind == "linear":
        return 1.0 / powers / factor, 1.0
    if kind == "llama3":
        return _llama3(1.0 / powers, scaling), 1.0
    if kind == "yarn":
        return _yarn(powers, width, base, scaling), _yarn_factor(scaling)
    return 1.0 / powers, 1.0


def _llama3(inv: torch.Tensor, s: Mapping[str, Any]) -> torch.Tensor:
    """Slow frequencies divided by the factor, fast ones as they are, a ramp between."""
    turns = s["original_max_position_embeddings"] * inv / (2 * math.pi)  # within the trained length
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * inv / s["factor"] + kept * inv


def _yarn(powers: torch.Tensor, width: int, base: float, s: Mapping[str, Any]) -> torch.Tensor:
    """The same with the ramp over channels, not over frequencies."""

    def channel(turns: float) -> float:
        trained = s["original_max_position_embeddings"]
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = channel(s.get("beta_fast", 32)), channel(s.get("beta_slow", 1))
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001  # transformers' own guard against a ramp of no width
    channels = torch.arange(width // 2, dtype=torch.float32, device=powers.device)
    scaled = ((channels - low) / (high - low)).clamp(0, 1)
    return scaled / (s["factor"] * powers) + (1 - scaled) / powers


def _yarn_factor(s: Mapping[str, Any]) -> float:
    """What softens the softmax over longer sequences: arXiv 2309.00071, equation 22."""

    def mscale(weight: float) -> float:
        return 1.0 if s["factor"] <= 1 else 0.1 * weight * math.log(s["factor"]) + 1.0

    if "attention_factor" in s:
        return float(s["attention_factor"])
    if "mscale" in s and "mscale_all_dim" in s:
        return mscale(s["mscale"]) / mscale(s["mscale_all_dim"])
    return mscale(1.0)
