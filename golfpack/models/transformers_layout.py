"""What checkpoints written by transformers have in common: their config.json, and tied heads."""

from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import StateDict


def check_model_type(stored: Mapping[str, Any], expected: str) -> None:
    """Raise UsageError where config.json says that the tensors are of another architecture."""
    found = stored.get("model_type", expected)
    if found != expected:
        raise UsageError(
            f"the tensors look like a {expected} model, but config.json says model_type {found!r}",
            f"golfpack computes {expected} only; see docs/writing_a_family.md for --model",
        )


def refuse_options(stored: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raise UsageError where config.json asks for a variant that the network does not compute.

    Args:
        stored: the config; a key left out or null means the supported value.
        supported: key -> the one value that is supported.
    """
    for key, value in supported.items():
        found = stored.get(key)
        if found is not None and found != value:
            raise UsageError(
                f"config.json says {key} {found!r}; this family computes {value!r} only",
                "write the network as a module and name it with --model FILE.py:CLASS",
            )


def without_copy(state: StateDict, name: str, original: str) -> tuple[StateDict, list[str]]:
    """The state dict without tensor `name` where it only repeats `original`, and a note on that.

    Shapes without values (the meta device) cannot tell, and stay.
    """
    a, b = state.get(name), state.get(original)
    if a is None or b is None or a.is_meta or b.is_meta:
        return state, []
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
        return state, []
    rest = {n: t for n, t in state.items() if n != name}
    return rest, [f"{name} is {original} (tied) and is kept once"]
