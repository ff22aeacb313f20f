"""The Llama network, pre-norm RMSNorm, rotary grouped-query attention, SwiGLU, and its kin by options.

Formulas: Touvron et al., "LLaMA", arXiv 2302.13971, section 2.2; grouped queries: Ainslie et al.,
arXiv 2305.13245; biases of queries, keys and values: Qwen2, arXiv 2407.10671; norms of queries and
keys: Qwen3, arXiv 2505.09388; windows: Mistral 7B, arXiv 2310.06825; norms around both halves of a
block, soft caps: Gemma 2, arXiv 2408.00118. Parameter names and the order of rotary channels are
transformers': channel i of a head is paired with channel i + D/2 (checkpoints with Meta's names pair
2i with 2i + 1; `family.py` reorders their rows).
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.golf.net import TiedHead
from golfpack.models.rope import frequencies, read_scaling

BIASES = ("none", "qkv", "all")
ACTIVATIONS = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
}
# Options that may be 0: then what they are about is not there.
_MAY_BE_ZERO = ("window", "window_rope_base", "query_scale", "attn_softcap", "softcap")


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama model.

    Attributes:
        head_dim: width of a head; queries have num_heads * head_dim rows, which need not be `dim`.
        mlp_hidden: width of the gated MLP.
        tied: whether the head is the embedding matrix.
        norm_eps: added to the mean square inside every RMSNorm.
        seq_len: context length the model was trained at; scoring uses it as the default window.
        attn_bias: which of attention's matrices have biases: none, qkv, or all (the output's, too).
        mlp_bias: whether the MLP's have.
        qk_norm: an RMSNorm over each head of queries and of keys.
        activation: of the MLP's gate: silu, gelu_tanh or gelu.
        rope_scaling: "" or, as JSON, `rope_parameters` of transformers' config.json; see `rope.py`.
        window: how many positions, its own among them, a token sees in a layer with a window; 0: no
            layer has one.
        window_layers: which layers have one: a letter each, w or f (full), repeated over all layers.
        window_rope_base: of the layers with a window, never scaled; 0: theirs is `rope_base`, too.
        norm_plus_one: norms multiply by 1 + weight.
        post_norms: norms behind attention and MLP as well as before them.
        embed_scaled: embeddings are multiplied by the square root of `dim`.
        query_scale: scores are divided by its square root; 0: by that of `head_dim`.
        attn_softcap: scores s become cap tanh(s / cap); 0: they do not.
        softcap: the same for logits.
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
    attn_bias: str = "none"
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: str = "silu"
    rope_scaling: str = ""
    window: int = 0
    window_layers: str = "w"
    window_rope_base: float = 0.0
    norm_plus_one: bool = False
    post_norms: bool = False
    embed_scaled: bool = False
    query_scale: float = 0.0
    attn_softcap: float = 0.0
    softcap: float = 0.0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in _MAY_BE_ZERO else None
            if f.type in (int, float) and not (value > 0 or value == least):
                raise UsageError(f"model option {f.name} must be positive, not {value}")
        for name, known in (("attn_bias", BIASES), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}", f"choose from {', '.join(known)}"
                )
        if not self.window_layers or set(self.window_layers) - set("wf"):
            raise UsageError(
                f"model option window_layers cannot be {self.window_layers!r}",
                "a letter for each layer, w (window) or f (full), such as wf",
            )
        read_scaling(self.rope_scaling)
        if self.head_dim % 2 or self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads of width {self.head_dim} with {self.num_kv_heads} KV heads "
                "cannot be",
                "the width must be even, and KV heads must divide heads",
            )

    def has_window(self, layer: int) -> bool:
        """Whether a layer sees no more than `window` positions."""
        return self.window > 0 and self.window_layers[layer % len(self.window_layers)] == "w"


@dataclass(frozen=True)
class _Context:
    """What the attention calls of one forward pass share, of layers with a window or without."""

    cos: torch.Tensor  # (T, head_dim / 2)
    sin: torch.Tensor
    mask: (
        torch.Tensor | None
    )  # (T, S) where a cache makes T != S, or a window ends; None: plain causal
    cache: KVCache | None


def _context(
    cfg: LlamaConfig, length: int, device: torch.device, cache: KVCache | None, windowed: bool
) -> _Context:
    """Rotary angles and mask for `length` tokens that follow what the cache holds."""
    start = 0 if cache is None else cache.length
    base, scaling = cfg.rope_base, read_scaling(cfg.rope_scaling)
    if windowed and cfg.window_rope_base:
        base, scaling = cfg.window_rope_base, {}
    inverse, factor = frequencies(cfg.head_dim, base, scaling, cfg.seq_len, start + length, device)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, inverse)
    mask = None
    if start or (windowed and length > cfg.window):
        mask = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    if mask is not None and windowed:
        mask = mask.triu(start - cfg.window + 1)
    return _Context(angles.cos() * factor, angles.sin() * factor, mask, cache)


def _rotate(x: torch.Tensor, ctx: _Context) -> torch.Tensor:
    """Rotary embedding of (B, H, T, D), pairing channel i with channel i + D/2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = ctx.cos.to(x.dtype), ctx.sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, cfg: LlamaConfig
) -> torch.Tensor:
    """Values (B, H, T, D) by the scores of queries (B, H, T, D) with keys (B, KV heads, S, D)."""
    scale = cfg.query_scale**-0.5 if cfg.query_scale else None
    if not cfg.attn_softcap:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = capped(q @ k.transpose(2, 3) * (scale or q.shape[-1] ** -0.5), cfg.attn_softcap)
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def capped(x: torch.Tensor, cap: float) -> torch.Tensor:
    """Values within +-cap, small ones as they are; cap 0: all as they are."""
    return cap * torch.tanh(x / cap) if cap else x


class PlusOneNorm(nn.Module):
    """RMSNorm that multiplies by 1 + weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * (1 + self.weight)


def norm(cfg: LlamaConfig, width: int) -> nn.Module:
    """The RMSNorm of a model, over `width` channels."""
    return (PlusOneNorm if cfg.norm_plus_one else nn.RMSNorm)(width, cfg.norm_eps)


class Attention(nn.Module):
    """Grouped-query causal attention."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        q_dim, kv_dim = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        bias = cfg.attn_bias != "none"
        self.q_proj = nn.Linear(cfg.dim, q_dim, bias)
        self.k_proj = nn.Linear(cfg.dim, kv_dim, bias)
        self.v_proj = nn.Linear(cfg.dim, kv_dim, bias)
        self.o_proj = nn.Linear(q_dim, cfg.dim, cfg.attn_bias == "all")
        if cfg.qk_norm:
            self.q_norm, self.k_norm = norm(cfg, cfg.head_dim), norm(cfg, cfg.head_dim)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        """Mix (B, T, dim) -> (B, T, dim); `layer` is for the cache."""
        heads = (*x.shape[:2], -1, self.cfg.head_dim)
        q, k = self.q_proj(x).view(heads), self.k_proj(x).view(heads)
        if self.cfg.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = _rotate(q.transpose(1, 2), ctx), _rotate(k.transpose(1, 2), ctx)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if ctx.cache is not None:
            k, v = ctx.cache.extend(layer, k, v)
        y = _attend(q, k, v, ctx.mask, self.cfg)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The gated MLP: down(act(gate x) * up x)."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[cfg.activation]
        self.gate_proj = nn.Linear(cfg.dim, cfg.mlp_hidden, cfg.mlp_bias)
        self.up_proj = nn.Linear(cfg.dim, cfg.mlp_hidden, cfg.mlp_bias)
        self.down_proj = nn.Linear(cfg.mlp_hidden, cfg.dim, cfg.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then MLP, each behind a norm (and before one, where asked) and added to the stream."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.post_norms = cfg.post_norms
        self.self_attn = Attention(cfg)
        self.mlp = Mlp(cfg)
        self.input_layernorm = norm(cfg, cfg.dim)
        self.post_attention_layernorm = norm(cfg, cfg.dim)
        if cfg.post_norms:
            self.pre_feedforward_layernorm = norm(cfg, cfg.dim)
            self.post_feedforward_layernorm = norm(cfg, cfg.dim)

    def forward(self, x: torch.Tensor, ctx: _Context, layer: int) -> torch.Tensor:
        mixed = self.self_attn(self.input_layernorm(x), ctx, layer)
        if self.post_norms:
            x = x + self.post_attention_layernorm(mixed)
            return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything but the head."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.norm = norm(cfg, cfg.dim)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        has_window = [self.cfg.has_window(i) for i in range(len(self.layers))]
        contexts = {
            windowed: _context(self.cfg, tokens.shape[1], tokens.device, cache, windowed)
            for windowed in set(has_window)
        }
        x = self.embed_tokens(tokens)
        if self.cfg.embed_scaled:
            x = x * self.cfg.dim**0.5
        for i, block in enumerate(self.layers):
            x = block(x, contexts[has_window[i]], i)
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
        table = self.model.embed_tokens.weight
        logits = self.head(x, table) if self.cfg.tied else self.lm_head(x)
        return capped(logits, self.cfg.softcap).float()
