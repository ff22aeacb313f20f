"""The GPT-2 network: pre-norm LayerNorm, learned positions, fused attention, GELU.

Formulas: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3.
Parameter names are transformers' without their leading "transformer."; matrices are (out, in), as in
`nn.Linear` (transformers stores them transposed; `gpt2.py` turns them around).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.models.base import KVCache
from golfpack.models.checks import check_attention_config
from golfpack.models.golf.net import TiedHead

ACTIVATIONS = ("gelu_tanh", "gelu")


@dataclass(frozen=True)
class Gpt2Config:
    """Shape of a GPT-2 model.

    Attributes:
        seq_len: rows of the table of positions: no sequence can be longer.
        mlp_hidden: width of the MLP.
        tied: whether the head is the embedding matrix.
        bias: whether linear layers and norms have biases (GPT-2 has; nanoGPT may not).
        activation: gelu_tanh (GPT-2's approximation) or gelu (exact, as nanoGPT).
        norm_eps: added to the variance inside every LayerNorm.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    mlp_hidden: int
    seq_len: int
    tied: bool = True
    bias: bool = True
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_attention_config(self, ACTIVATIONS)


class Attention(nn.Module):
    """Causal multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, cfg: Gpt2Config) -> None:
        super().__init__()
        self.num_heads = cfg.num_heads
        self.c_attn = nn.Linear(cfg.dim, 3 * cfg.dim, cfg.bias)
        self.c_proj = nn.Linear(cfg.dim, cfg.dim, cfg.bias)
        self.drop = nn.Dropout(0.0)  # a trainer sets its rate

    def forward(self, x: torch.Tensor, layer: int, cache: KVCache | None) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is for the cache."""
        heads = (*x.shape[:2], self.num_heads, -1)
        q, k, v = (y.view(heads).transpose(1, 2) for y in self.c_attn(x).chunk(3, dim=-1))
        mask = None
        if cache is not None:
            k, v = cache.extend(layer, k, v)
            new, seen = q.shape[2], k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None,
            dropout_p=self.drop.p if self.training else 0.0,
        )  # fmt: skip
        return self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """c_proj(gelu(c_fc x))."""

    def __init__(self, cfg: Gpt2Config) -> None:
        super().__init__()
        self.approximate = "tanh" if cfg.activation == "gelu_tanh" else "none"
        self.c_fc = nn.Linear(cfg.dim, cfg.mlp_hidden, cfg.bias)
        self.c_proj = nn.Linear(cfg.mlp_hidden, cfg.dim, cfg.bias)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate)))


class Block(nn.Module):
    """Attention, then MLP, each behind a norm and added to the residual stream."""

    def __init__(self, cfg: Gpt2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(cfg.dim, cfg.norm_eps, bias=cfg.bias)
        self.attn = Attention(cfg)
        self.ln_2 = nn.LayerNorm(cfg.dim, cfg.norm_eps, bias=cfg.bias)
        self.mlp = Mlp(cfg)

    def forward(self, x: torch.Tensor, layer: int, cache: KVCache | None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), layer, cache)
        return x + self.mlp(self.ln_2(x))


class Gpt2(nn.Module):
    """The whole model."""

    def __init__(self, cfg: Gpt2Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.wpe = nn.Embedding(cfg.seq_len, cfg.dim)
        self.drop = nn.Dropout(0.0)
        self.h = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.ln_f = nn.LayerNorm(cfg.dim, cfg.norm_eps, bias=cfg.bias)
        if cfg.tied:
            self.head = TiedHead()
        else:
            self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size) float32."""
        length, start = tokens.shape[1], 0 if cache is None else cache.length
        positions = torch.arange(start, start + length, device=tokens.device)
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for i, block in enumerate(self.h):
            x = block(x, i, cache)
        if cache is not None:
            cache.length += length
        x = self.ln_f(x)
        if self.cfg.tied:
            return self.head(x, self.wte.weight).float()
        return self.lm_head(x).float()
