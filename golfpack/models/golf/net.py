"""The golf network: the architecture of the challenge's baseline, and of its records.

A pre-norm transformer with per-channel residual mixing towards the embedding, U-net skips between
its two halves, grouped-query attention with normalised and gained queries, rotary positions,
a squared-ReLU MLP, and tanh-capped logits. Facts: openai/parameter-golf, `train_gpt.py`. The records'
additions are options of `GolfConfig`, each off by default.

Virtual layers: the blocks may run more than once, `passes` times in a row (the output of every virtual
layer is then multiplied by its pass's row of `pass_gate`) or in any `layer_order`. The skips span the
virtual layers: the first half stores its outputs, the second takes them back in reverse.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.models.base import KVCache
from golfpack.models.golf.attention import Attention, Context, make_context, rms_norm
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.embed import (
    LOOK_BACK,
    BigramHash,
    ChannelSmear,
    Engram,
    PairTable,
    TokenTable,
    document_starts,
    window_smear,
)


class Mlp(nn.Module):
    """relu2 and leaky_relu2: proj(act(fc x)^2). swiglu: proj(silu(gate) * up)."""

    def __init__(self, cfg: GolfConfig, block: int) -> None:
        super().__init__()
        self.activation = cfg.activation
        self.slope = cfg.slopes[block]
        if cfg.activation == "swiglu":
            self.gate_up = nn.Linear(cfg.dim, 2 * cfg.mlp_hidden, bias=False)
        else:
            self.fc = nn.Linear(cfg.dim, cfg.mlp_hidden, bias=False)
        self.proj = nn.Linear(cfg.mlp_hidden, cfg.dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "swiglu":
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            return self.proj(F.silu(gate) * up)
        return self.proj(F.leaky_relu(self.fc(x), self.slope).square())


class Block(nn.Module):
    """Attention and MLP on a residual stream that is first mixed with the embedding."""

    def __init__(self, cfg: GolfConfig, block: int) -> None:
        super().__init__()
        self.divisor = (block + 1) ** 0.5 if cfg.ln_scale else 1.0
        self.parallel = 0 <= cfg.parallel_start <= block
        self.attn_scale = nn.Parameter(torch.empty(cfg.dim))
        self.mlp_scale = nn.Parameter(torch.empty(cfg.dim))
        self.resid_mix = nn.Parameter(torch.empty(2, cfg.dim))
        self.attn = Attention(cfg, block)
        self.mlp = Mlp(cfg, block)

    def forward(
        self,
        x: torch.Tensor,
        x0: torch.Tensor,
        ctx: Context,
        layer: int,
        value_scale: torch.Tensor | None,
    ) -> torch.Tensor:
        """One virtual layer, (B, T, dim) -> (B, T, dim). Parallel: both branches read the mixed x."""
        x = self.mix(x, x0)
        attended = x + self.attend(x, ctx, layer, value_scale)
        return attended + self.think(x if self.parallel else attended)

    def mix(self, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """The stream mixed with the embedding x0, per channel."""
        return self.resid_mix[0] * x + self.resid_mix[1] * x0

    def attend(
        self, x: torch.Tensor, ctx: Context, layer: int, value_scale: torch.Tensor | None
    ) -> torch.Tensor:
        """What attention adds to a stream x."""
        return self.attn_scale * self.attn(self._norm(x), ctx, layer, value_scale)

    def think(self, x: torch.Tensor) -> torch.Tensor:
        """What the MLP adds to a stream x."""
        return self.mlp_scale * self.mlp(self._norm(x))

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        x = rms_norm(x)
        return x if self.divisor == 1.0 else x / self.divisor


class TiedHead(nn.Module):
    """The embedding matrix used as a head: a module, so that calibration can hook it."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)


class Golf(nn.Module):
    """The whole model; parameter names equal those of the challenge's checkpoints, banks split."""

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.order = cfg.order
        self.skip_weights = nn.Parameter(torch.empty(cfg.virtual_layers // 2, cfg.dim))
        if cfg.skip_gates:
            self.skip_gates = nn.Parameter(torch.empty(cfg.virtual_layers // 2, cfg.dim))
        if cfg.passes > 1:
            self.pass_gate = nn.Parameter(torch.empty(cfg.passes, cfg.dim))
        if cfg.lanes == 2:
            self.parallel_post_lambdas = nn.Parameter(torch.empty(cfg.num_layers, 2, 2))
            self.parallel_resid_lambdas = nn.Parameter(torch.empty(cfg.num_layers, 2))
        self.pairs: PairTable | None = None  # see `add_pairs`
        self._add_embedding(cfg)
        self.blocks = nn.ModuleList(Block(cfg, i) for i in range(cfg.num_layers))
        if cfg.embed_dim:
            self.head_proj = nn.Linear(cfg.dim, cfg.embed_dim, bias=False)
        if cfg.tied:
            self.head = TiedHead()
        else:
            self.lm_head = nn.Linear(cfg.embed_width, cfg.vocab_size, bias=False)

    def _add_embedding(self, cfg: GolfConfig) -> None:
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.embed_width)
        if cfg.bigram_size:
            self.bigram = Engram(cfg) if cfg.bigram_hash == "engram" else BigramHash(cfg)
        if cfg.word_boost:
            self.word_start_boost = nn.Parameter(torch.empty(()))
        if cfg.loop_embeds:
            self.loop_embed = nn.Embedding(cfg.loop_embeds, cfg.dim)
        if cfg.smear == "window":
            self.smear_gate = nn.Linear(cfg.smear_window, 1, bias=False)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        elif cfg.smear == "channels":
            self.smear = ChannelSmear(cfg.dim)
        if cfg.embed_dim:
            self.embed_proj = nn.Linear(cfg.embed_dim, cfg.dim, bias=False)
        if cfg.value_embed_dim:
            kv_dim = cfg.num_kv_heads * cfg.head_dim
            self.ve_shared = TokenTable(cfg.vocab_size, cfg.value_embed_dim, kv_dim)
            self.ve_layer_scales = nn.ParameterList(torch.empty(1) for _ in cfg.value_layers)
        self.value_scale_of = {block: i for i, block in enumerate(cfg.value_layers)}

    def add_pairs(self, rows: int) -> None:
        """Add a table of zeros, looked up by hashed pairs, to the normalised embedding: for training."""
        self.pairs = PairTable(rows, self.cfg.embed_width, self.tok_emb.weight)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, vocab_size) float32."""
        return self.logits(self.hidden(tokens, cache))

    def hidden(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> what the head reads, (B, T, width of the embedding)."""
        ctx = make_context(self.cfg, tokens.shape[1], tokens.device, cache)
        if self.cfg.value_embed_dim:
            ctx.token_values = self.ve_shared(tokens)
        x = self._trunk(self.embed(tokens, cache), ctx)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = rms_norm(x)
        return self.head_proj(x) if self.cfg.embed_dim else x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the head makes of `hidden`, (B, T, vocab_size) float32."""
        z = self.head(hidden, self.tok_emb.weight) if self.cfg.tied else self.lm_head(hidden)
        return _cap(z.float(), self.cfg)

    def cap(self, z: torch.Tensor) -> torch.Tensor:
        """A head's products as logits, float32."""
        return _cap(z.float(), self.cfg)

    @property
    def loops(self) -> bool:
        return len(self.order) > self.cfg.num_layers

    def loop(self, on: bool) -> None:
        """Run the blocks as `layer_order` and `passes` say, or (off) each once: for training."""
        self.order = self.cfg.order if on else tuple(range(self.cfg.num_layers))

    def embed(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """(B, T) -> (B, T, dim), with what the tokens before give to it."""
        cfg, ids = self.cfg, tokens
        looks_back = cfg.smear != "none" or cfg.bigram_size or self.pairs is not None
        if cache is not None and looks_back:
            ids = cache.with_last_tokens(tokens, LOOK_BACK)
        x = self.tok_emb(ids)
        if cfg.bigram_size:
            x = x + self._boosted(self.bigram(ids), ids)
        if cfg.smear == "window":
            x = window_smear(x, self.smear_gate, self.smear_lambda, document_starts(cfg, ids))
        x = rms_norm(x)
        if self.pairs is not None:
            x = x + self.pairs(ids).to(x.dtype)
        if cfg.embed_dim:
            x = self.embed_proj(x)
        if cfg.smear == "channels":
            x = self.smear(x, document_starts(cfg, ids))
        return x[:, ids.shape[1] - tokens.shape[1] :]

    def _boosted(self, pairs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """What hashed pairs give, (B, T, width), times `word_start_boost` where a word starts."""
        if not self.cfg.word_boost:
            return pairs
        at = cast(BigramHash, self.bigram).starts(ids)[..., None].to(pairs.dtype)
        return pairs * (1.0 + at * (self.word_start_boost.to(pairs.dtype) - 1.0))

    def _trunk(self, x0: torch.Tensor, ctx: Context) -> torch.Tensor:
        encoder = len(self.order) // 2
        x, lane, skips, loops = x0, None, [], 0
        early = self.cfg.lane_split == "early"
        if self.cfg.loop_embeds and not self.loops:  # unused, its gradient is zero and not missing
            x = x + 0.0 * self.loop_embed.weight.sum().to(x.dtype)
        for i, b in enumerate(self.order):
            if self.cfg.loop_embeds and self.loops and b == self.cfg.loop_start:
                x, lane = self._add_loop_embed(loops, x, lane)
                loops += 1
            starts = (
                lane is None and self.cfg.lanes == 2 and i >= encoder and self.blocks[b].parallel
            )
            if starts and early:
                lane = x  # the second lane leaves here; the skips go on joining the first alone
            if i >= encoder and skips:
                x = self._join(x, skips.pop(), i - encoder)
            if starts and not early:
                lane = x
            if lane is not None:
                x, lane = self._two_lanes(b, x, lane, x0, ctx, i)
            else:
                x = self.blocks[b](x, x0, ctx, i, self._value_scale(b))
            if self.cfg.passes > 1:
                x = x * self.pass_gate[i // self.cfg.num_layers]
            if i < encoder:
                skips.append(x)
        return x if lane is None else self._one_of(x, lane)

    def _add_loop_embed(
        self, index: int, x: torch.Tensor, lane: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        row = self.loop_embed.weight[index].to(x.dtype)
        return x + row, None if lane is None else lane + row

    def _value_scale(self, block: int) -> torch.Tensor | None:
        index = self.value_scale_of.get(block)
        return None if index is None else self.ve_layer_scales[index]

    def _join(self, x: torch.Tensor, skip: torch.Tensor, index: int) -> torch.Tensor:
        """A skip joins: x + w skip, or with gates g = sigmoid(skip_gates): g x + (1 - g) w skip."""
        skip = self.skip_weights[index] * skip
        if self.cfg.skip_gates:
            x = torch.lerp(skip, x, torch.sigmoid(self.skip_gates[index]))
        else:
            x = x + skip
        return rms_norm(x) if self.cfg.resid_norm else x

    def _two_lanes(
        self,
        b: int,
        attn_lane: torch.Tensor,
        mlp_lane: torch.Tensor,
        x0: torch.Tensor,
        ctx: Context,
        layer: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One virtual layer on two lanes l_0 (attention's) and l_1 (the MLP's).

        a = attention of l_0 mixed with x0, m = MLP of l_1, mixed alike or as it is; with r =
        parallel_resid_lambdas[b] and p = parallel_post_lambdas[b], lane j becomes
        r_j l_j + p_0j a + p_1j m, or where both weights decay either lane,
        r_1 (r_0 l_j + p_0j a) + p_1j m.
        """
        block = cast(Block, self.blocks[b])
        resid, post = self.parallel_resid_lambdas[b], self.parallel_post_lambdas[b]
        a = block.attend(block.mix(attn_lane, x0), ctx, layer, self._value_scale(b))
        m = block.think(block.mix(mlp_lane, x0) if self.cfg.lane_mixes == "both" else mlp_lane)
        if self.cfg.lane_decay == "both":
            first = (resid[0] * attn_lane + post[0, 0] * a, resid[0] * mlp_lane + post[0, 1] * a)
            return resid[1] * first[0] + post[1, 0] * m, resid[1] * first[1] + post[1, 1] * m
        return (
            resid[0] * attn_lane + post[0, 0] * a + post[1, 0] * m,
            resid[1] * mlp_lane + post[0, 1] * a + post[1, 1] * m,
        )

    def _one_of(self, attn_lane: torch.Tensor, mlp_lane: torch.Tensor) -> torch.Tensor:
        if self.cfg.final_lane == "mean":
            return 0.5 * (attn_lane + mlp_lane)
        return attn_lane if self.cfg.final_lane == "attn" else mlp_lane


def _cap(z: torch.Tensor, cfg: GolfConfig) -> torch.Tensor:
    """tanh: s tanh(u), u = z / s. poly: s (u - u^3/3 + u^5/15), u clamped to +-2, the sum to +-1."""
    if cfg.softcap_kind == "tanh":
        return cfg.softcap * torch.tanh(z / cfg.softcap)
    u = (z / cfg.softcap).clamp(-2.0, 2.0)
    u2 = u * u
    return cfg.softcap * (u * (1.0 - u2 / 3.0 + u2 * u2 / 15.0)).clamp(-1.0, 1.0)
