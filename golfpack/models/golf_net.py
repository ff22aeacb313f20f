"""The golf network: the architecture of the challenge's baseline and a looped variant.

A pre-norm transformer with per-channel residual mixing towards the embedding, U-net skips between
its two halves, grouped-query attention with normalised and gained queries, rotary positions,
a squared-ReLU MLP, and tanh-capped logits. Facts: openai/parameter-golf, `train_gpt.py`.

Looped variant: with `passes` > 1 the blocks are run that many times in a row, as `passes *
num_layers` virtual layers (the skips span those), and the output of every virtual layer is
multiplied by its pass's row of `pass_gate`.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache

ACTIVATIONS = ("relu2", "leaky_relu2", "swiglu")


@dataclass(frozen=True)
class GolfConfig:
    """Shape of a golf model.

    Attributes:
        num_layers: blocks with weights of their own; virtual layers are `passes` times as many.
        mlp_hidden: width of the MLP; swiglu's fused `gate_up` has twice as many rows, gate first.
        tied: whether the head is the embedding matrix.
        q_gain: whether queries have a learned gain per head.
        activation: relu2 (relu squared), leaky_relu2 (leaky_relu with slope 1/2, squared), swiglu.
        softcap: logits are softcap * tanh(z / softcap).
        seq_len: context length the model was trained at; scoring uses it as the default window.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    mlp_hidden: int
    passes: int = 1
    tied: bool = True
    q_gain: bool = True
    activation: str = "relu2"
    rope_base: float = 10000.0
    softcap: float = 30.0
    seq_len: int = 1024

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type in (int, float) and not value > 0:
                raise UsageError(f"model option {f.name} must be positive, not {value}")
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"unknown activation {self.activation!r}", f"choose from {', '.join(ACTIVATIONS)}"
            )
        if self.dim % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads with {self.num_kv_heads} KV heads do not fit dim "
                f"{self.dim}",
                "heads must divide dim into even parts, and KV heads must divide heads",
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def virtual_layers(self) -> int:
        return self.num_layers * self.passes


@dataclass(frozen=True)
class _Context:
    """What every attention call of one forward pass shares."""

    cos: torch.Tensor  # (T, head_dim / 2)
    sin: torch.Tensor
    mask: torch.Tensor | None  # (T, S) where a cache makes T != S; None means plain causal
    cache: KVCache | None


def _context(cfg: GolfConfig, length: int, device: torch.device, cache: KVCache | None) -> _Context:
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
    """Rotary embedding over the full head, pairing channel i with channel i + D/2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = ctx.cos.to(x.dtype), ctx.sin.to(x.dtype)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def _rms_norm(x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],))


class Attention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys."""

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.cfg = cfg
        kv_dim = cfg.num_kv_heads * cfg.head_dim
        self.c_q = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.c_k = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.c_v = nn.Linear(cfg.dim, kv_dim, bias=False)
        self.proj = nn.Linear(cfg.dim, cfg.dim, bias=False)
        if cfg.q_gain:
            self.q_gain = nn.Parameter(torch.empty(cfg.num_heads))

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is the virtual layer, for the cache."""
        heads = (*x.shape[:2], -1, self.cfg.head_dim)
        q = self.c_q(x).view(heads).transpose(1, 2)
        k = self.c_k(x).view(heads).transpose(1, 2)
        v = self.c_v(x).view(heads).transpose(1, 2)
        q = _rotate(_rms_norm(q), ctx)
        k = _rotate(_rms_norm(k), ctx)
        if self.cfg.q_gain:
            q = q * self.q_gain.to(q.dtype)[:, None, None]
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=ctx.mask, is_causal=ctx.mask is None, enable_gqa=True
        )
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    """relu2 and leaky_relu2: proj(act(fc x)^2). swiglu: proj(silu(gate) * up)."""

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.activation = cfg.activation
        if cfg.activation == "swiglu":
            self.gate_up = nn.Linear(cfg.dim, 2 * cfg.mlp_hidden, bias=False)
        else:
            self.fc = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        self.proj = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "swiglu":
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            return self.proj(F.silu(gate) * up)
        slope = 0.5 if self.activation == "leaky_relu2" else 0.0
        return self.proj(F.leaky_relu(self.fc(x), slope).square())


class Block(nn.Module):
    """Attention and MLP on a residual stream that is first mixed with the embedding."""

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.attn_scale = nn.Parameter(torch.empty(cfg.dim))
        self.mlp_scale = nn.Parameter(torch.empty(cfg.dim))
        self.resid_mix = nn.Parameter(torch.empty(2, cfg.dim))
        self.attn = Attention(cfg)
        self.mlp = Mlp(cfg)

    def forward(self, x: torch.Tensor, x0: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        x = self.resid_mix[0] * x + self.resid_mix[1] * x0
        x = x + self.attn_scale * self.attn(_rms_norm(x), ctx, layer)
        return x + self.mlp_scale * self.mlp(_rms_norm(x))


class TiedHead(nn.Module):
    """The embedding matrix used as a head: a module, so that calibration can hook it."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)


class Golf(nn.Module):
    """The whole model; parameter names equal those of the challenge's checkpoints."""

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.cfg = cfg
        n = cfg.virtual_layers
        self.skip_weights = nn.Parameter(torch.empty(n // 2, cfg.dim))
        if cfg.passes > 1:
            self.pass_gate = nn.Parameter(torch.empty(cfg.passes, cfg.dim))
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        if cfg.tied:
            self.head = TiedHead()
        else:
            self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size) float32."""
        ctx = _context(self.cfg, tokens.shape[1], tokens.device, cache)
        x = self._trunk(_rms_norm(self.tok_emb(tokens)), ctx)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = _rms_norm(x)
        z = self.head(x, self.tok_emb.weight) if self.cfg.tied else self.lm_head(x)
        return self.cfg.softcap * torch.tanh(z.float() / self.cfg.softcap)

    def _trunk(self, x0: torch.Tensor, ctx: _Context) -> torch.Tensor:
        encoder = self.cfg.virtual_layers // 2
        x, skips = x0, []
        for i in range(self.cfg.virtual_layers):
            if i >= encoder and skips:
                x = x + self.skip_weights[i - encoder] * skips.pop()
            x = self.blocks[i % self.cfg.num_layers](x, x0, ctx, i)
            if self.cfg.passes > 1:
                x = x * self.pass_gate[i // self.cfg.num_layers]
            if i < encoder:
                skips.append(x)
        return x
