"""Training of the Llama family, as llama2.c does it: GPT-2's scaling by depth, matrices decay.

Source: karpathy/llama2.c, `model.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from golfpack.models.llama.net import Llama
from golfpack.models.training import Training, fill_normal, scaled_std
from golfpack.spec import ModelSpec


def _initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
    fill_normal(model, spec, generator, _vector, scaled_std(spec.config["num_layers"]))


def _vector(name: str) -> float:
    return 1.0 if name.endswith("norm.weight") else 0.0  # gains of norms; biases of variants


def _complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """One KV head a head, and heads that share the model's width, where nobody says otherwise."""
    if not {"dim", "num_heads"} <= options.keys():
        return dict(options)
    heads = options["num_heads"]
    return {"num_kv_heads": heads, "head_dim": options["dim"] // heads} | dict(options)


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    return list(cast(Llama, model).model.layers)


TRAINING = Training(
    initialise=_initialise,
    shape={"num_layers": 6, "dim": 256, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 768},
    complete=_complete,
    blocks=_blocks,
)
