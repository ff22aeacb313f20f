"""Training of the GPT-2 family, as nanoGPT does it: what is a matrix decays, tables included.

Source: Radford et al. 2019, section 2.3 (scaling by depth); karpathy/nanoGPT, `model.py`.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from golfpack.models.gpt2.net import Gpt2
from golfpack.models.training import Training, fill_normal, scaled_std
from golfpack.spec import ModelSpec


def _initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
    fill_normal(model, spec, generator, _vector, scaled_std(spec.config["num_layers"]))


def _vector(name: str) -> float:
    return 1.0 if name.endswith(".weight") else 0.0  # gains of norms; biases


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    return list(cast(Gpt2, model).h)


TRAINING = Training(
    initialise=_initialise,
    shape={"num_layers": 6, "dim": 256, "num_heads": 8, "mlp_hidden": 1024},
    dropout=True,
    blocks=_blocks,
)
