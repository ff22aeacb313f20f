"""Golf checkpoints as their trainers save them: parameter banks and training-only heads.

Later records keep all blocks' matrices of one kind in a bank, a 3-D parameter, for their optimiser's
sake (openai/parameter-golf, records since 2026-03-23). Banks are split: each matrix is then quantized
with its own statistics.
"""

from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import StateDict

# The matrices of each bank, kind after kind: [i] is block i's first kind, [n + i] its second.
_BANKS: dict[str, tuple[str, ...]] = {
    "qo_bank": ("attn.c_q", "attn.proj"),
    "kv_bank": ("attn.c_k", "attn.c_v"),
    "mlp_up_bank": ("mlp.fc",),
    "mlp_down_bank": ("mlp.proj",),
}
# Heads that predict tokens further ahead: they help training and score nothing.
_TRAINING_ONLY = "mtp_heads."


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Split parameter banks and drop training-only heads; see `Family.adapt`.

    Raises:
        UsageError: a bank of another shape, or beside the matrices it should hold.
    """
    if "tok_emb.weight" not in state:
        return state, []
    kept: dict[str, torch.Tensor] = {}
    split = dropped = 0
    for name, tensor in state.items():
        if name in _BANKS:
            parts = _split(name, tensor)
            split += len(parts)
        else:
            parts = {} if name.startswith(_TRAINING_ONLY) else {name: tensor}
            dropped += not parts
        if both := [part for part in parts if part in kept]:
            raise UsageError(
                f"the checkpoint holds tensor {both[0]!r} and a bank with the same matrix",
                "save one of them",
            )
        kept |= parts
    notes = []
    if split:
        notes.append(f"parameter banks split into {split} matrices, one per block and kind")
    if dropped:
        notes.append(f"{dropped} multi-token-prediction heads dropped: scoring does not use them")
    return (kept, notes) if notes else (state, [])


def _split(name: str, bank: torch.Tensor) -> dict[str, torch.Tensor]:
    kinds = _BANKS[name]
    if bank.ndim != 3 or bank.shape[0] % len(kinds):
        raise UsageError(
            f"tensor {name!r} has shape {tuple(bank.shape)}, not (matrices, rows, columns) with "
            f"{len(kinds)} per block",
            "is it a bank of one matrix per block and kind?",
        )
    blocks = bank.shape[0] // len(kinds)
    return {
        f"blocks.{i}.{kind}.weight": bank[k * blocks + i]
        for k, kind in enumerate(kinds)
        for i in range(blocks)
    }
