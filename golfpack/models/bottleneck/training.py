"""Training of the decoupled-bottleneck family: everything ~ N(0, 0.02^2), everything decays.

Facts: TheApeMachine/decoupled-bottleneck-attention, programs v27 and v29: one group of parameters, no
scaling by depth, norms 1 and 0, null keys and temperatures 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from golfpack.models.bottleneck.config import BottleneckConfig
from golfpack.models.bottleneck.net import Bottleneck
from golfpack.models.bottleneck.system import system_checkpoint, system_config
from golfpack.models.training import SystemForm, Training, fill_normal
from golfpack.spec import ModelSpec, TensorSpec


def _initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
    fill_normal(model, spec, generator, _vector)


def _vector(name: str) -> float:
    return 1.0 if name.endswith(".weight") else 0.0  # gains of norms; biases, nulls, temperatures


def _complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """Widths that follow the model's where nobody sets them."""
    if not {"dim", "num_heads"} <= options.keys():
        return dict(options)
    dim, heads = options["dim"], options["num_heads"]
    return {"embed_dim": dim, "attn_dim": dim, "num_kv_heads": heads} | dict(options)


def _decays(tensor: TensorSpec) -> bool:
    return True


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    return list(cast(Bottleneck, model).blocks)


def tied_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Names that state dicts of the source have beside ours: with `tie_qk` keys are queries."""
    cfg = BottleneckConfig(**config)
    if not cfg.tie_qk:
        return {}
    return {
        f"blocks.{i}.attn.k_{part.name}.weight": f"blocks.{i}.attn.q_{part.name}.weight"
        for i in range(cfg.num_layers)
        for part in cfg.parts
    }


def _score_parts(config: Mapping[str, Any]) -> dict[str, int]:
    return {n.removeprefix("k_"): width for n, width in BottleneckConfig(**config).key_parts}


TRAINING = Training(
    initialise=_initialise,
    shape={
        "num_layers": 6, "dim": 256, "num_heads": 8, "mlp_hidden": 768, "attn_dim": 96,
        "sem_dim": 32, "geo_dim": 64,
    },
    complete=_complete,
    decays=_decays,
    dropout=True,
    blocks=_blocks,
    aliases=tied_names,
    score_parts=_score_parts,
    system=SystemForm(
        system_config, lambda run: system_checkpoint(run, tied_names(run.options)), "step*.pt"
    ),
)  # fmt: skip
