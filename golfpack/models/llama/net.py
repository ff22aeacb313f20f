"""The Llama network: pre-norm RMSNorm, rotary grouped-query attention, SwiGLU, no biases.

Formulas: Touvron et al., "LLaMA", arXiv 2302.13971, section 2.2; grouped queries: Ainslie et al.,
arXiv 2305.13245. Parameter names and the order of rotary channels are transformers': channel i of a
head is paired with channel i + D/2 (checkpoints with Meta's names pair 2i with 2i + 1; `llama.py`
reorders their rows).
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.golf.net import TiedHead


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama model.

    Attributes:
        head_dim: width of a head; queries have num_heads * head_dim rows, which need not be `dim`.
        mlp_hidden: width of the SwiGLU MLP.
        tied: whether the head is the embedding matrix.
        norm_eps: added to the mean square inside every RMSNorm.
        seq_len: context length the model was trained at; scoring uses it as the default window.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_hidden: int
    tied: bool = False
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    seq_len: int = 2048

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type in (int, float) and not value > 0:
                raise UsageError(f"model option {f.name} must be positive, not {value}")
        if self.head_dim % 2 or self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads of width {self.head_dim} with {self.num_kv_heads} KV heads "
                "cannot be",
                "the width must be even, and KV heads must divide heads",
            )


@dataclass(frozen=True)
class _Context:
    """What every attention call of one forward pass shares."""

    cos: torch.Tensor  # (T, head_dim / 2)
    sin: torch.Tensor
    mask: torch.Tensor | None  # (T, S) where a cache makes T != S; None means plain causal
    cache: KVCache | None


def _context(
    cfg: LlamaConfig, length: int, device: torch.device, cache: KVCache | None
) -> _Context:
    """Rotary angles and mask for `length` tokens that follow what the cache holds."""
    start = 0 if cache is None else cache.length
    exponents = torch.arange(0, cfg.head_dim, 2, dtype=torch.float32, device=device) / cfg.head_dim
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, 1.0 / cfg.rope_base**exponents)
    mask = None
    if start:
        mask = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    return _Context(angles.cos(), angles.sin(), mask, cache)


def _rotate(x: torch.Tensor, ctx: _Context) -> torch.Tensor:
    """Rotary embedding of (B, H, T, D), pairing channel i with channel i + D/2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = ctx.cos.to(x.dtype), ctx.sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Grouped-query causal attention."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        q_dim, kv_dim = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        self.q_proj = nn.Linear(cfg.dim, q_dim, bias=False)
        self.k_proj = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(q_dim, cfg.dim, bias=False)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is for the cache."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = _rotate(self.q_proj(x).view(heads).transpose(1, 2), ctx)
        k = _rotate(self.k_proj(x).view(heads).transpose(1, 2), ctx)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=ctx.mask, is_causal=ctx.mask is None, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        self.up_proj = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        self.down_proj = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then MLP, each behind a norm and added to the residual stream."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(cfg)
        self.mlp = Mlp(cfg)
        self.input_layernorm = nn.RMSNorm(cfg.dim, cfg.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(cfg.dim, cfg.norm_eps)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), ctx, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything but the head."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.norm = nn.RMSNorm(cfg.dim, cfg.norm_eps)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        ctx = _context(self.cfg, tokens.shape[1], tokens.device, cache)
        x = self.embed_tokens(tokens)
        for i, block in enumerate(self.layers):
            x = block(x, ctx, i)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.norm(x)


class Llama(nn.Module):
    """The whole model; parameter names equal those of transformers' LlamaForCausalLM."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.model = Trunk(cfg)
        if cfg.tied:
            self.head = TiedHead()
        else:
            self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size) float32."""
        x = self.model(tokens, cache)
        if self.cfg.tied:
            return self.head(x, self.model.embed_tokens.weight).float()
        return self.lm_head(x).float()
