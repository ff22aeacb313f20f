"""The decoupled-bottleneck network: attention through narrow or split queries and keys.

A pre-norm transformer without biases in its matrices, with LayerNorm, rotary positions and a tied
head. Attention takes one of four forms, told by the dimensions of its config (see `mode`); decoupled
attention adds the scores of a semantic part, which knows no positions, and of a geometric part,
which is rotated. Facts: TheApeMachine/decoupled-bottleneck-attention, programs v27 to v29.

The score of a query and a key, the same on every path (full, chunked, token by token):

    S = exp(logit_scale[h]) * sum over parts of (q_part . k_part) / sqrt(part's head width)

and, where `score_scale` is "sdpa" in decoupled attention without a null key, S divided once more by
sqrt(semantic + geometric head width): the programs named above trained that way, because they left
the default scale of the attention kernel in place.
"""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.models.base import KVCache
from golfpack.models.bottleneck.config import BottleneckConfig, QKPart
from golfpack.models.golf.net import TiedHead


@dataclass(frozen=True)
class _Context:
    """What every attention call of one forward pass shares."""

    start: int  # position of the first token
    mask: torch.Tensor | None  # (T, keys), null key included; None means plain causal
    cache: KVCache | None


def _context(null: bool, length: int, device: torch.device, cache: KVCache | None) -> _Context:
    start = 0 if cache is None else cache.length
    if not start and not null:
        return _Context(start, None, cache)
    first = int(null)  # the null key is column 0, which every query sees
    mask = torch.ones(length, first + start + length, dtype=torch.bool, device=device)
    return _Context(start, mask.tril(first + start), cache)


def _rotate(x: torch.Tensor, start: int, base: float) -> torch.Tensor:
    """Rotary embedding of (B, H, T, D), pairing channel i with channel i + D/2.

    Angles are float64, so that late positions lose nothing; they cost next to nothing.
    """
    length, width = x.shape[2:]
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=x.device) / width
    positions = torch.arange(start, start + length, dtype=torch.float64, device=x.device)
    angles = torch.outer(positions, base**-exponents)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, heads * D) -> (B, heads, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _behind(null: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, H, S, D) behind one position that all sequences share, (1, H, 1, D)."""
    return torch.cat((null.to(seen.dtype).expand(len(seen), -1, -1, -1), seen), dim=2)


class Attention(nn.Module):
    """Causal attention in any of the four forms; parameter names equal the checkpoint's."""

    def __init__(self, cfg: BottleneckConfig) -> None:
        super().__init__()
        self.cfg = cfg
        for part in cfg.parts:
            kv_width = part.width * cfg.num_kv_heads // cfg.num_heads
            self.add_module(f"q_{part.name}", nn.Linear(cfg.dim, part.width, bias=False))
            if not cfg.tie_qk:
                self.add_module(f"k_{part.name}", nn.Linear(cfg.dim, kv_width, bias=False))
            if cfg.null_attn:
                null = nn.Parameter(torch.empty(1, 1, kv_width))
                self.register_parameter(_null_key(part), null)
        v_width = cfg.attn_dim * cfg.num_kv_heads // cfg.num_heads
        self.v_proj = nn.Linear(cfg.dim, v_width, bias=False)
        self.out_proj = nn.Linear(cfg.attn_dim, cfg.dim, bias=False)
        if cfg.null_attn:
            self.v_null = nn.Parameter(torch.empty(1, 1, v_width))
        if cfg.learned_temp:
            self.logit_scale = nn.Parameter(torch.empty(cfg.num_heads))
        self.drop = nn.Dropout(0.0)  # of the attention weights; a trainer sets rates

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is for the cache."""
        q, k = self._queries_and_keys(x, ctx.start)
        v = _heads(self.v_proj(x), self.cfg.num_kv_heads)
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v, self.cfg.key_parts)
        if self.cfg.null_attn:
            k, v = self._with_null(k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=ctx.mask, is_causal=ctx.mask is None,
            scale=self.cfg.score_factor, enable_gqa=True,
            dropout_p=self.drop.p if self.training else 0.0,
        )  # fmt: skip
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _queries_and_keys(self, x: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All parts side by side, queries scaled, so that their product is the sum of the scores."""
        queries, keys = [], []
        for part in self.cfg.parts:
            made = self.get_submodule(f"q_{part.name}")(x)
            q = _heads(made, self.cfg.num_heads)
            if not self.cfg.tie_qk:
                made = self.get_submodule(f"k_{part.name}")(x)
            k = _heads(made, self.cfg.num_kv_heads)
            if part.rotary:
                q, k = (_rotate(z, start, self.cfg.rope_base) for z in (q, k))
            queries.append(q / sqrt(q.shape[-1]))
            keys.append(k)
        q = torch.cat(queries, dim=-1)
        if self.cfg.learned_temp:
            q = q * self.logit_scale.exp().to(q.dtype)[:, None, None]
        return q, torch.cat(keys, dim=-1)

    def _with_null(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, H, S, D) behind the learned ones, which stand at no position."""
        null_keys = [self.get_parameter(_null_key(part)) for part in self.cfg.parts]
        null_k = torch.cat([_heads(n, self.cfg.num_kv_heads) for n in null_keys], dim=-1)
        null_v = _heads(self.v_null, self.cfg.num_kv_heads)
        return _behind(null_k, k), _behind(null_v, v)


def _null_key(part: QKPart) -> str:
    return "k_null" if part.name == "proj" else f"k_{part.name}_null"


class FeedForward(nn.Module):
    """swiglu: w3(silu(w1 x) * w2 x). gelu: w2(gelu(w1 x))."""

    def __init__(self, cfg: BottleneckConfig) -> None:
        super().__init__()
        self.swiglu = cfg.activation == "swiglu"
        self.w1 = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        if self.swiglu:
            self.w2 = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
            self.w3 = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)
        else:
            self.w2 = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.swiglu:
            return self.drop(self.w3(F.silu(self.w1(x)) * self.w2(x)))
        return self.drop(self.w2(F.gelu(self.w1(x))))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream from its normalised state."""

    def __init__(self, cfg: BottleneckConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(cfg.dim)
        self.attn = Attention(cfg)
        self.ln2 = nn.LayerNorm(cfg.dim)
        self.ff = FeedForward(cfg)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        x = x + self.attn(self.ln1(x), ctx, layer)
        return x + self.ff(self.ln2(x))


class Bottleneck(nn.Module):
    """The whole model; parameter names equal those of the source's checkpoints."""

    def __init__(self, cfg: BottleneckConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.narrow = cfg.embed_dim != cfg.dim
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.embed_dim)
        if self.narrow:
            self.emb_in = nn.Linear(cfg.embed_dim, cfg.dim, bias=False)
            self.emb_out = nn.Linear(cfg.dim, cfg.embed_dim, bias=False)
        self.drop = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.ln_f = nn.LayerNorm(cfg.dim)
        self.head = TiedHead()

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size), float32 or the weights' wider type."""
        ctx = _context(self.cfg.null_attn, tokens.shape[1], tokens.device, cache)
        x = self.tok_emb(tokens)
        if self.narrow:
            x = self.emb_in(x)
        x = self.drop(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, ctx, layer)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = self.ln_f(x)
        if self.narrow:
            x = self.emb_out(x)
        z = self.head(x, self.tok_emb.weight)
        return z.to(torch.promote_types(z.dtype, torch.float32))
