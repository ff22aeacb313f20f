"""Attention of the golf network: grouped queries, rotary positions, and what the records added.

With all options at their defaults this is the baseline's attention. Formulas: openai/parameter-golf,
the records' `train_gpt.py`; each is written where it is computed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.models.base import KVCache
from golfpack.models.golf.config import GolfConfig


@dataclass
class Context:
    """What every attention call of one forward pass shares.

    Attributes:
        turns: (T, rotated / 2) cosines and sines of the rotary angles; a second pair for odd blocks,
            where these have a base of their own.
        mask: (T, S) where a cache makes T != S; None means plain causal.
        cache: keys and values of earlier positions, if any.
        token_values: (B, T, kv_dim) that the blocks with value embeddings scale and add, or None.
        first_values: (B, H, T, D) values of the first virtual layer, once it has run.
    """

    turns: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    mask: torch.Tensor | None
    cache: KVCache | None
    token_values: torch.Tensor | None = None
    first_values: torch.Tensor | None = None


def make_context(
    cfg: GolfConfig, length: int, device: torch.device, cache: KVCache | None
) -> Context:
    """Rotary angles and mask for `length` tokens that follow what the cache holds."""
    start = 0 if cache is None else cache.length
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    # A cache's sequence is as long as it can get: else its first keys were turned for a shorter one.
    whole = length if cache is None else cache.capacity
    bases = (cfg.rope_base, cfg.rope_base_odd) if cfg.rope_base_odd else (cfg.rope_base,)
    angles = [torch.outer(positions, rotary(cfg, base, whole, device)) for base in bases]
    mask = None
    if start:
        mask = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    return Context(tuple((a.cos(), a.sin()) for a in angles), mask, cache)


def rotary(cfg: GolfConfig, base: float, length: int, device: torch.device) -> torch.Tensor:
    """Angle per position of each rotated pair i of R channels, (R / 2,) float32: base^(-2i/R).

    ntk: beyond L = rope_train_len the base becomes base * (length / L)^(R / (R - 2)).
    yarn: pair i is slowed by 1 + ramp * (rope_factor - 1), ramp = clamp((2i/R - 1/4) / (3/4), 0, 1).
    """
    rotated = cfg.rotated_dims
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated
    if cfg.rope_scaling == "ntk" and length > cfg.rope_train_len:
        base *= (length / cfg.rope_train_len) ** (rotated / (rotated - 2))
    angles = 1.0 / base**exponents
    if cfg.rope_scaling == "yarn":
        ramp = ((exponents - 0.25) / 0.75).clamp(0.0, 1.0)
        angles = angles / (1.0 + ramp * (cfg.rope_factor - 1.0))
    return angles


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """The tensor divided by its root mean square over the last axis."""
    return F.rms_norm(x, (x.shape[-1],))


def _rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding of the leading R channels, pairing channel i with channel i + R/2."""
    cos, sin = turn[0].to(x.dtype), turn[1].to(x.dtype)
    rotated = 2 * cos.shape[-1]
    a, b = x[..., :rotated].chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin, x[..., rotated:]), dim=-1)


def _without_own_value(
    y: torch.Tensor, v: torch.Tensor, alpha: torch.Tensor | None = None
) -> torch.Tensor:
    """Exclusive self-attention (XSA): y - a (y . u) u with u = v / |v|, the token's own value.

    y (B, H, T, D), v (B, KV heads, T, D); query head h belongs to value head h // (H / KV heads). a is
    tanh(alpha) with one (H,) alpha a head, or 1.
    """
    grouped = y.unflatten(1, (v.shape[1], -1))
    own = F.normalize(v, dim=-1)[:, :, None]
    along = (grouped * own).sum(-1, keepdim=True)
    if alpha is not None:
        along = along * torch.tanh(alpha).to(y.dtype).view(1, v.shape[1], -1, 1, 1)
    return (grouped - along * own).flatten(1, 2)


class Attention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys."""

    def __init__(self, cfg: GolfConfig, block: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.turn = block % 2 if cfg.rope_base_odd else 0
        self.exclusive = block >= cfg.num_layers - cfg.xsa_last_n
        kv_dim = cfg.num_kv_heads * cfg.head_dim
        self.c_q = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.c_k = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.c_v = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.proj = nn.Linear(cfg.dim, cfg.dim, bias=False)
        if cfg.q_gain:
            self.q_gain = nn.Parameter(torch.empty(cfg.num_heads))
        if cfg.xsa_strength:
            self.xsa_alpha = nn.Parameter(torch.empty(cfg.num_heads))
        if cfg.value_residual == "lambda":
            self.vr_lambda = nn.Parameter(torch.empty(2))
        elif cfg.value_residual == "sigmoid":
            self.vrl_alpha = nn.Parameter(torch.empty(1))
        if cfg.attn_gate == "affine":
            self.attn_gate = nn.Linear(cfg.dim, cfg.num_heads)
        elif cfg.attn_gate == "plain":
            self.attn_gate_w = nn.Parameter(torch.empty(cfg.num_heads, cfg.attn_gate_window))
        elif cfg.attn_gate == "double":
            self.attn_gate_proj = nn.Linear(cfg.attn_gate_window, cfg.num_heads, bias=False)

    def forward(
        self, x: torch.Tensor, ctx: Context, layer: int, value_scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim).

        Args:
            x: normalised input.
            ctx: of this forward pass; the first virtual layer leaves its values in it.
            layer: the virtual layer, for the cache.
            value_scale: (1,) factor of the token values to add, in the blocks that have them.
        """
        heads = (*x.shape[:2], -1, self.cfg.head_dim)
        query = self.c_q(x)
        q = query.view(heads).transpose(1, 2)
        k = self.c_k(x).view(heads).transpose(1, 2)
        v = self._values(x, ctx, value_scale).view(heads).transpose(1, 2)
        v = self._with_first_values(v, ctx)
        q = _rotate(rms_norm(q), ctx.turns[self.turn])
        k = _rotate(rms_norm(k), ctx.turns[self.turn])
        if self.cfg.q_gain:
            q = q * self.q_gain.to(q.dtype)[:, None, None]
        own = v
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=ctx.mask, is_causal=ctx.mask is None, enable_gqa=True
        )
        if self.exclusive:
            y = _without_own_value(y, own, self.xsa_alpha if self.cfg.xsa_strength else None)
        if self.cfg.attn_gate != "none":
            y = y * self._gate(x, query).transpose(1, 2)[..., None]
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def _values(
        self, x: torch.Tensor, ctx: Context, value_scale: torch.Tensor | None
    ) -> torch.Tensor:
        v = self.c_v(x)
        if value_scale is None or ctx.token_values is None:
            return v
        return v + ctx.token_values * value_scale.to(v.dtype)

    def _with_first_values(self, v: torch.Tensor, ctx: Context) -> torch.Tensor:
        """lambda: l0 v0 + l1 v. sigmoid: v + sigmoid(alpha) v0. v0: the first virtual layer's v."""
        if self.cfg.value_residual == "none":
            return v
        if ctx.first_values is None:
            ctx.first_values = v
            return v
        if self.cfg.value_residual == "lambda":
            return (
                self.vr_lambda[0].to(v.dtype) * ctx.first_values + self.vr_lambda[1].to(v.dtype) * v
            )
        return v + torch.sigmoid(self.vrl_alpha).to(v.dtype) * ctx.first_values

    def _gate(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Factor of each head's output, (B, T, H)."""
        cfg = self.cfg
        if cfg.attn_gate == "affine":
            return torch.sigmoid(self.attn_gate(x))
        seen = (query if cfg.attn_gate_source == "query" else x)[..., : cfg.attn_gate_window]
        if cfg.attn_gate == "plain":
            return torch.sigmoid(
                cfg.attn_gate_scale * F.linear(seen, self.attn_gate_w.to(seen.dtype))
            )
        return 2.0 * torch.sigmoid(self.attn_gate_proj(seen))
