"""Writing ALPH checkpoints: the binary form that `file.py` reads, AdamW's moments in it.

The header says what follows, as float32, little-endian, in its order: all parameters (`p.NAME`), then
the moments of each (`o.NAME.m` and `o.NAME.v`, flat). Facts: thomasdavis/alpha2,
`packages/train/src/checkpoint.ts`; parameters in the order of its model.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from golfpack.data.alph_header import MAGIC
from golfpack.errors import UsageError
from golfpack.models.alph.net import AlphConfig
from golfpack.models.training import Snapshot

_BLOCK = (
    "ln1.weight", "ln1.bias", "attn.wq", "attn.wk", "attn.wv", "attn.wo", "ln2.weight", "ln2.bias",
    "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def system_config(options: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    """The program's `modelConfig`.

    Raises:
        UsageError: an MLP that is not four times as wide as the model, which the program cannot make.
    """
    cfg = AlphConfig(**options)
    if cfg.mlp_hidden != 4 * cfg.dim:
        raise UsageError(
            f"ALPH models have an MLP of 4 x {cfg.dim}, not of {cfg.mlp_hidden}",
            f"set model.mlp_hidden={4 * cfg.dim}, or leave out train.system_every",
        )
    return {
        "vocabSize": cfg.vocab_size,
        "blockSize": cfg.seq_len,
        "nLayer": cfg.num_layers,
        "nEmbd": cfg.dim,
        "nHead": cfg.num_heads,
        "dropout": dropout,
        "softCap": cfg.score_cap,
    }


def stored_names(num_layers: int) -> list[str]:
    """Parameters in the order of the files, by the program's names."""
    blocks = [f"layer.{i}.{part}" for i in range(num_layers) for part in _BLOCK]
    return ["wte", "wpe", "lmHead", "lnF.weight", "lnF.bias", *blocks]


def system_checkpoint(run: Snapshot) -> tuple[str, bytes]:
    """`checkpoint-{step}.json`, which is no JSON. The run has moments."""
    assert run.moments is not None
    config = system_config(run.options, run.dropout)
    parts = list(_tensors(run, run.moments))
    header: dict[str, Any] = {
        "modelConfig": config,
        "configHash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "rngState": run.seed,
        "step": run.step,
        "optimizerStep": run.updates,
        "tensors": [{"name": n, "shape": list(a.shape), "elements": a.size} for n, a in parts],
    }
    if run.tokenizer is not None:
        header["tokenizerArtifacts"] = run.tokenizer
    text = json.dumps(header, ensure_ascii=False).encode()
    content = [MAGIC, struct.pack("<I", len(text)), text, *(a.tobytes() for _, a in parts)]
    return f"checkpoint-{run.step}.json", b"".join(content)


def _tensors(
    run: Snapshot, moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[tuple[str, np.ndarray]]:
    names = {stored: _ours(stored) for stored in stored_names(run.options["num_layers"])}
    assert set(names.values()) == set(run.weights)
    for stored, ours in names.items():
        yield f"p.{stored}", _floats(run.weights[ours])
    for stored, ours in names.items():
        for letter, moment in zip("mv", moments[ours], strict=True):
            yield f"o.{stored}.{letter}", _floats(moment).ravel()


def _ours(stored: str) -> str:
    """The module's name: matrices have no `.weight` behind them in the files."""
    return stored if ".ln" in stored or stored.startswith("lnF") else f"{stored}.weight"


def _floats(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy().astype("<f4", copy=False)
