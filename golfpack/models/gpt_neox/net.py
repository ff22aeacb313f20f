"""The GPT-NeoX network (Pythia): parallel residuals, partly rotary attention, biases everywhere.

Formulas: Black et al., "GPT-NeoX-20B", arXiv 2204.06745, section 2; rotary positions: Su et al., arXiv
2104.09864. Parameter names are transformers'. Rows of `query_key_value` are head after head, each
with its queries, keys and values; channel i of a head's first `rotary_dims` is paired with channel
i + rotary_dims/2, the others are not rotated.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.checks import check_attention_config
from golfpack.models.golf.net import TiedHead
from golfpack.models.rope import frequencies, read_scaling

ACTIVATIONS = ("gelu", "gelu_tanh")


@dataclass(frozen=True)
class GptNeoxConfig:
    """Shape of a GPT-NeoX model.

    Attributes:
        mlp_hidden: width of the MLP.
        rotary_dims: how many channels of each head are rotated, an even number.
        seq_len: context length the model was trained at; scoring uses it as the default window.
        tied: whether the head is the embedding matrix.
        parallel: whether attention and MLP read the same stream; else the MLP reads it behind attention.
        attn_bias: whether attention's matrices have biases; the MLP's always have.
        rope_base: of the rotary angles.
        rope_scaling: "" or, as JSON, `rope_parameters` of transformers' config.json; see `rope.py`.
        activation: gelu (exact) or gelu_tanh (its approximation).
        norm_eps: added to the variance inside every LayerNorm.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    mlp_hidden: int
    rotary_dims: int
    seq_len: int = 2048
    tied: bool = False
    parallel: bool = True
    attn_bias: bool = True
    rope_base: float = 10000.0
    rope_scaling: str = ""
    activation: str = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_attention_config(self, ACTIVATIONS)
        if self.rotary_dims % 2 or self.rotary_dims > self.dim // self.num_heads:
            raise UsageError(
                f"{self.rotary_dims} channels of heads of width {self.dim // self.num_heads} cannot be "
                "rotated",
                "rotary_dims must be even, and no more than a head has",
            )
        read_scaling(self.rope_scaling)


@dataclass(frozen=True)
class _Context:
    """What every attention call of one forward pass shares."""

    cos: torch.Tensor  # (T, rotary_dims / 2)
    sin: torch.Tensor
    mask: torch.Tensor | None  # (T, S) where a cache makes T != S; None means plain causal
    cache: KVCache | None


def _context(
    cfg: GptNeoxConfig, length: int, device: torch.device, cache: KVCache | None
) -> _Context:
    """Rotary angles and mask for `length` tokens that follow what the cache holds."""
    start = 0 if cache is None else cache.length
    scaling = read_scaling(cfg.rope_scaling)
    inverse, factor = frequencies(
        cfg.rotary_dims, cfg.rope_base, scaling, cfg.seq_len, start + length, device
    )
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, inverse)
    mask = None
    if start:
        mask = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    return _Context(angles.cos() * factor, angles.sin() * factor, mask, cache)


def _rotate(x: torch.Tensor, ctx: _Context) -> torch.Tensor:
    """Rotary embedding of the first channels of (B, H, T, D)."""
    half = ctx.cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = ctx.cos.to(x.dtype), ctx.sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


class Attention(nn.Module):
    """Causal multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, cfg: GptNeoxConfig) -> None:
        super().__init__()
        self.num_heads = cfg.num_heads
        self.query_key_value = nn.Linear(cfg.dim, 3 * cfg.dim, cfg.attn_bias)
        self.dense = nn.Linear(cfg.dim, cfg.dim, cfg.attn_bias)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is for the cache."""
        heads = self.query_key_value(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=-1)
        q, k = _rotate(q, ctx), _rotate(k, ctx)
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=ctx.mask, is_causal=ctx.mask is None)
        return self.dense(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """dense_4h_to_h(gelu(dense_h_to_4h x))."""

    def __init__(self, cfg: GptNeoxConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if cfg.activation == "gelu_tanh" else "none"
        self.dense_h_to_4h = nn.Linear(cfg.dim, cfg.mlp_hidden)
        self.dense_4h_to_h = nn.Linear(cfg.mlp_hidden, cfg.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, cfg: GptNeoxConfig) -> None:
        super().__init__()
        self.parallel = cfg.parallel
        self.input_layernorm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.attention = Attention(cfg)
        self.mlp = Mlp(cfg)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        mixed = x + self.attention(self.input_layernorm(x), ctx, layer)
        return mixed + self.mlp(self.post_attention_layernorm(x if self.parallel else mixed))


class Trunk(nn.Module):
    """Everything but the head."""

    def __init__(self, cfg: GptNeoxConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_in = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.final_layer_norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        ctx = _context(self.cfg, tokens.shape[1], tokens.device, cache)
        x = self.embed_in(tokens)
        for i, block in enumerate(self.layers):
            x = block(x, ctx, i)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.final_layer_norm(x)


class GptNeox(nn.Module):
    """The whole model; parameter names equal those of transformers' GPTNeoXForCausalLM on disk."""

    def __init__(self, cfg: GptNeoxConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.gpt_neox = Trunk(cfg)
        if cfg.tied:
            self.head = TiedHead()
        else:
            self.embed_out = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size) float32."""
        x = self.gpt_neox(tokens, cache)
        if self.cfg.tied:
            return self.head(x, self.gpt_neox.embed_in.weight).float()
        return self.embed_out(x).float()
