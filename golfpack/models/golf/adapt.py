"""Golf checkpoints as their trainers save them: parameter banks and training-only tensors.

Later records keep all blocks' matrices of one kind in a bank, a 3-D parameter, for their optimiser's
sake (openai/parameter-golf, records since 2026-03-23). Banks are split: each matrix is then quantized
with its own statistics.
"""

from collections.abc import Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import StateDict, form_words

# The matrices of each bank, kind after kind: [i] is block i's first kind, [n + i] its second.
_BANKS: dict[str, tuple[str, ...]] = {
    "qo_bank": ("attn.c_q", "attn.proj"),
    "kv_bank": ("attn.c_k", "attn.c_v"),
    "mlp_up_bank": ("mlp.fc",),
    "mlp_down_bank": ("mlp.proj",),
}
# What only training uses: beginnings of names, and what they are.
_TRAINING_ONLY = {
    "mtp_heads.": "multi-token-prediction heads",
    "meta_sgd_": "tensors of inner-loop learning rates (MetaSGD)",
}


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """Split parameter banks and drop what only training uses; see `Family.adapt`.

    Raises:
        UsageError: a bank of another shape, or beside the matrices it should hold.
    """
    if "tok_emb.weight" not in state:
        return state, []
    kept: dict[str, torch.Tensor] = {}
    split, dropped = 0, dict.fromkeys(_TRAINING_ONLY, 0)
    for name, tensor in state.items():
        if name in _BANKS:
            parts = _split(name, tensor)
            split += len(parts)
        elif start := next((s for s in _TRAINING_ONLY if name.startswith(s)), None):
            parts = {}
            dropped[start] += 1
        else:
            parts = {name: tensor}
        if both := [part for part in parts if part in kept]:
            raise UsageError(
                f"the checkpoint holds tensor {both[0]!r} and a bank with the same matrix",
                "save one of them",
            )
        kept |= parts
    notes = []
    if split:
        notes.append(f"parameter banks split into {split} matrices, one per block and kind")
    notes += [
        f"{count} {_TRAINING_ONLY[start]} dropped: only training uses them"
        for start, count in dropped.items()
        if count
    ]
    return (kept, notes) if notes else (state, [])


def tell_form(state: StateDict) -> str:
    """Which banks the matrices stand in; see `Forms`."""
    found = [name for name in _BANKS if name in state]
    return "banks" if len(found) == len(_BANKS) else " ".join(found)


def restore(state: StateDict, _config: Mapping[str, Any], form: str) -> dict[str, torch.Tensor]:
    """Matrices back in their banks; see `Forms`."""
    words = form_words(form, ["banks", *_BANKS])
    out = dict(state)
    for bank in _BANKS if "banks" in words else sorted(words):
        names = [
            f"blocks.{i}.{kind}.weight"
            for kind in _BANKS[bank]
            for i in range(_blocks(state, _BANKS[bank][0]))
        ]
        if not names or {n for n in names if n in out} != set(names):
            raise UsageError(f"the artifact lacks matrices of {bank}", None)
        out[bank] = torch.stack([out.pop(name) for name in names])
    return out


def _blocks(state: StateDict, kind: str) -> int:
    return sum(name.endswith(f".{kind}.weight") for name in state)


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
