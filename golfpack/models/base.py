"""What a model family is. A family is one file beside this one plus one line in `FAMILIES`.

A family's module must:
- take token ids (B, T) int64 and return logits (B, T, V) float32;
- have parameter names equal to the names in its `ModelSpec`;
- call the modules named in each `TensorSpec.hooks`, so that calibration sees inputs and gradients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from golfpack.packer.ir import ModelSpec

StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """How to recognise, describe and build one family of models.

    Attributes:
        name: stored in artifacts; never changes once released.
        config_type: frozen dataclass of JSON-safe fields, with the family's defaults.
        infer: state dict -> config dict, with every dimension that names and shapes tell, or None
            when the state dict is not of this family. Raises UsageError, listing the choices, when
            it is of this family but ambiguous.
        build: config dict -> module in float32, on CPU, in eval mode, weights uninitialised.
        spec: config dict -> ModelSpec.
        max_length: config dict -> longest sequence the module can take, or None for no limit.
    """

    name: str
    config_type: type
    infer: Callable[[StateDict], dict[str, Any] | None]
    build: Callable[[Mapping[str, Any]], nn.Module]
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    max_length: Callable[[Mapping[str, Any]], int | None]
