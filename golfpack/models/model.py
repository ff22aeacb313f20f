"""A model in memory, from reading to evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from golfpack.models.base import Family
from golfpack.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory, recognised: from a checkpoint or from an artifact.

    Attributes:
        family: what builds it.
        config: complete, JSON-safe config of the family.
        spec: what the packer may know about the model.
        weights: float32 arrays by tensor name; of a checkpoint in the order of `spec.tensors`.
        sha256: of the file, hex.
        assumed: config values that neither the shapes nor the user told: defaults taken on trust.
        path: the file.
        dtypes: the dtype each tensor had in the checkpoint, such as "bfloat16"; {} of an artifact.
        notes: what was renamed, split or dropped on the way from the file's tensors to `weights`.
        tokenizer: name and bytes of the tokenizer's file inside an artifact, where one is.
    """

    family: Family
    config: dict[str, Any]
    spec: ModelSpec
    weights: Mapping[str, np.ndarray]
    sha256: str
    assumed: dict[str, Any]
    path: Path
    dtypes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tokenizer: tuple[str, bytes] | None = None

    def module(self, weights: Mapping[str, np.ndarray] | None = None) -> nn.Module:
        """The runnable model (see `Family.module`), with other weights than its own where given."""
        return self.family.module(self.config, self.weights if weights is None else weights)
