"""Auxiliary losses on what a model's head reads, with weights of their own that no checkpoint gets.

Multi-token prediction: a head for each of the next tokens but one. Source: the records' `mtp_heads`
(openai/parameter-golf, from 2026-03-20 on; there no optimiser has them), Gloeckle et al. 2024.
JEPA: one matrix predicts what the first block will read at the next position. Source: seed 004's exp16,
whose targets are its rows of hashed tokens; weight 0.1, worst of its series.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import AdamW, Optimizer

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.training import Readout
from golfpack.spec import ModelSpec
from golfpack.train.config import TrainConfig


class Split(nn.Module):
    """A model whose forward pass also gives what its head reads."""

    def __init__(self, model: nn.Module, readout: Readout) -> None:
        super().__init__()
        self.model = model
        self.readout = readout

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T) -> logits (B, T, V), hidden (B, T, W)."""
        hidden = self.readout.hidden(self.model, tokens)
        return self.readout.logits(self.model, hidden), hidden


class Heads(nn.Module):
    """The auxiliary weights: zeros at first, so that the losses begin without a say in the model.

    Attributes:
        mtp: heads (V, W); head k (from 1) predicts the token k after the next.
        jepa: (D, W), or None.
    """

    def __init__(self, config: TrainConfig, vocab_size: int, width: int, dim: int) -> None:
        super().__init__()
        self.mtp = nn.ModuleList(
            nn.Linear(width, vocab_size, bias=False) for _ in range(config.mtp_heads)
        )
        self.jepa = nn.Linear(width, dim, bias=False) if config.jepa_weight else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


def make_heads(
    config: TrainConfig, family: Family, spec: ModelSpec, model: nn.Module
) -> tuple[Heads, Readout] | None:
    """The heads that `config` asks for and what they read, or None where it asks for none.

    Raises:
        UsageError: a forward pass of the family does not come apart.
    """
    if not config.has_heads:
        return None
    readout = None if family.training is None else family.training.readout
    if readout is None:
        name = "mtp_heads" if config.mtp_heads else "jepa_weight"
        raise UsageError(
            f"the {family.name} family does not tell what its head reads, and {name} is set",
            f"leave out train.{name}; the golf family has it",
        )
    with torch.no_grad():
        token = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
        width = readout.hidden(model, token).shape[-1]
        dim = readout.embed(model, token).shape[-1]
    heads = Heads(config, spec.config["vocab_size"], width, dim)
    first = next(model.parameters())
    return heads.to(first.device, first.dtype), readout


def heads_optimiser(heads: Heads, config: TrainConfig) -> Optimizer:
    """AdamW without decay, at the rate of an untied head beside Muon, else at that of all weights."""
    rate = config.head_lr if config.optimizer == "muon" else config.lr
    beta2 = 0.95 if config.optimizer == "lion" or config.beta2 is None else config.beta2
    group = {"params": list(heads.parameters()), "lr": rate, "peak_lr": rate, "weight_decay": 0.0}
    return AdamW([group], betas=(config.beta1, beta2), eps=config.eps)


def mtp_sums(
    heads: Heads, readout: Readout, model: nn.Module, hidden: torch.Tensor, rows: torch.Tensor,
    ignored: int,
) -> list[torch.Tensor]:  # fmt: skip
    """The summed cross-entropy of each head, in float32.

    Args:
        hidden: (B, T, W), of rows[:, :-1].
        rows: (B, T + 1); at position t head k's target is rows[:, t + 1 + k].
    """
    sums = []
    for k, head in enumerate(heads.mtp, start=1):
        logits = readout.cap(model, head(hidden[:, :-k])).float()
        targets = rows[:, 1 + k :]
        sums.append(
            F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=ignored
            )
        )
    return sums


def jepa_sum(
    heads: Heads, readout: Readout, model: nn.Module, hidden: torch.Tensor, rows: torch.Tensor,
    ignored: int,
) -> torch.Tensor:  # fmt: skip
    """Summed over targets, the mean over channels of (prediction - embedding)^2, in float32.

    Embeddings are those of the next positions, with what the tokens before give to them, and get no
    gradient: else they would meet the predictions by all becoming equal.
    """
    assert heads.jepa is not None
    with torch.no_grad():
        aims = readout.embed(model, rows)[:, 1:].float()
    errors = (heads.jepa(hidden).float() - aims).square().mean(-1)
    return errors.masked_fill(rows[:, 1:] == ignored, 0.0).sum()
