"""What configs of several families ask of their options."""

import dataclasses
from collections.abc import Collection
from typing import Any

from golfpack.errors import UsageError


def check_attention_config(config: Any, activations: Collection[str]) -> None:
    """Hold a dataclass with `activation`, `dim` and `num_heads` to what any such network needs.

    Raises:
        UsageError: a number that is not positive, an unknown activation, heads that do not divide dim.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.type in (int, float) and not value > 0:
            raise UsageError(f"model option {f.name} must be positive, not {value}")
    if config.activation not in activations:
        raise UsageError(
            f"unknown activation {config.activation!r}", f"choose from {', '.join(activations)}"
        )
    if config.dim % config.num_heads:
        raise UsageError(f"{config.num_heads} heads do not divide dim {config.dim}", None)
