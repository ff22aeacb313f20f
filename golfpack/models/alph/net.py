"""The ALPH network: GPT-2's shape without biases in its matrices, and with soft-capped scores.

Pre-norm blocks with LayerNorm, learned positions, a GELU by the tanh approximation, an untied head.
Attention scores are cap * tanh(s / cap), s = q . k / sqrt(head width), before the causal mask.
Facts: thomasdavis/alpha2, `packages/model/src/gpt.ts`.
"""

import dataclasses
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache


@dataclass(frozen=True)
class AlphConfig:
    """Shape of an ALPH model.

    Attributes:
        score_cap: bound of the attention scores; 0 leaves them as they are.
        seq_len: number of learned positions, and so the longest sequence.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    mlp_hidden: int
    seq_len: int
    score_cap: float = 30.0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type is int and value < 1:
                raise UsageError(f"model option {f.name} must be positive, not {value}")
        if not self.score_cap >= 0:
            raise UsageError(
                f"model option score_cap must not be negative, but is {self.score_cap}",
                "0 switches the cap off",
            )
        if self.dim % self.num_heads:
            raise UsageError(f"{self.num_heads} heads do not divide dim {self.dim}")


class Attention(nn.Module):
    """Causal attention with capped scores, which rule out the fused kernels."""

    def __init__(self, cfg: AlphConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.wq = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.wk = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.wv = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.wo = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.drop = nn.Dropout(0.0)  # a trainer sets its rate

    def forward(
        self, x: torch.Tensor, future: torch.Tensor, cache: KVCache | None, layer: int
    ) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim).

        Args:
            x: normalised states.
            future: (T, S) bool, the keys that each query must not see.
            cache: of the positions before x, if any.
            layer: for the cache.
        """
        heads = (self.cfg.num_heads, -1)
        q, k, v = (w(x).unflatten(-1, heads).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        scores = q @ k.transpose(2, 3) / sqrt(q.shape[-1])
        if cap := self.cfg.score_cap:
            scores = cap * torch.tanh(scores / cap)
        weights = self.drop(scores.masked_fill(future, -torch.inf).softmax(-1))
        return self.drop(self.wo((weights @ v).transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """fc2(gelu(fc1 x)), the GELU by its tanh approximation."""

    def __init__(self, cfg: AlphConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        self.fc2 = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(F.gelu(self.fc1(x), approximate="tanh")))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream from its normalised state."""

    def __init__(self, cfg: AlphConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(cfg.dim)
        self.attn = Attention(cfg)
        self.ln2 = nn.LayerNorm(cfg.dim)
        self.mlp = Mlp(cfg)

    def forward(
        self, x: torch.Tensor, future: torch.Tensor, cache: KVCache | None, layer: int
    ) -> torch.Tensor:
        x = x + self.attn(self.ln1(x), future, cache, layer)
        return x + self.mlp(self.ln2(x))


class Alph(nn.Module):
    """The whole model; parameter names are the checkpoint's, matrices with `.weight` behind."""

    def __init__(self, cfg: AlphConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.wpe = nn.Embedding(cfg.seq_len, cfg.dim)
        self.layer = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.lnF = nn.LayerNorm(cfg.dim)
        self.lmHead = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size), float32 or the weights' wider type.

        Raises:
            UsageError: the sequence is longer than the learned positions.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.cfg.seq_len:
            raise UsageError(
                f"a sequence of {end} tokens is beyond the {self.cfg.seq_len} positions this model "
                "has learned",
                "use shorter windows",
            )
        positions = torch.arange(start, end, device=tokens.device)
        future = torch.ones(len(positions), end, dtype=torch.bool, device=tokens.device)
        future = future.triu(start + 1)
        x = self.wte(tokens) + self.wpe(positions)
        for layer, block in enumerate(self.layer):
            x = block(x, future, cache, layer)
        if cache is not None:
            cache.length = end
        z = self.lmHead(self.lnF(x))
        return z.to(torch.promote_types(z.dtype, torch.float32))
