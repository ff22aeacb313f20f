"""Training of the ALPH family: matrices ~ N(0, 0.02^2), less where the residual stream is written to.

Facts: thomasdavis/alpha2, `packages/model/src/gpt.ts` and its trainer: tables and norms do not decay,
the head does.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from golfpack.models.alph.net import Alph
from golfpack.models.alph.system import system_checkpoint, system_config
from golfpack.models.training import SystemForm, Training, fill_normal, scaled_std
from golfpack.spec import ModelSpec, TensorSpec


def _initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
    fill_normal(model, spec, generator, _vector, scaled_std(spec.config["num_layers"]))


def _vector(name: str) -> float:
    return 1.0 if name.endswith(".weight") else 0.0  # gains and biases of norms


def _decays(tensor: TensorSpec) -> bool:
    return tensor.role not in ("embed", "vector")


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    return list(cast(Alph, model).layer)


TRAINING = Training(
    initialise=_initialise,
    shape={"num_layers": 6, "dim": 256, "num_heads": 8, "mlp_hidden": 1024},
    decays=_decays,
    dropout=True,
    blocks=_blocks,
    system=SystemForm(system_config, system_checkpoint, "checkpoint-*.json", moments=True),
)
