"""What the records' sources do, in one small net: nothing of it is installed, compiled or stored here.

Flash attention imported at the top, torch.compile as a decorator and as a call, a rotary table cached by
the first forward pass, and a buffer that a forward pass makes.
"""

import torch
import torch.nn.functional as F
from flash_attn_interface import flash_attn_func  # pyright: ignore  # not installed
from torch import nn


class Rotary(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("rate", 1 / 100 ** (torch.arange(0, dim, 2) / dim), persistent=False)
        self.cached = None

    def forward(self, length):
        if self.cached is None or self.cached[0].shape[1] < length:
            angles = torch.outer(torch.arange(length), self.rate)
            self.cached = angles.cos()[None, :, None], angles.sin()[None, :, None]
        return tuple(t[:, :length] for t in self.cached)


@torch.compile(fullgraph=True)
def turn(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, dim, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * kv_heads * self.width, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.rotary = Rotary(self.width)

    def forward(self, x):
        batch, length, dim = x.shape
        cos, sin = self.rotary(length)
        q = self.q(x).view(batch, length, self.heads, self.width)
        k, v = self.kv(x).view(batch, length, 2 * self.kv_heads, self.width).chunk(2, dim=2)
        y = flash_attn_func(turn(q, cos, sin), turn(k, cos, sin), v, causal=True)
        return self.out(y.reshape(batch, length, dim))


class Net(nn.Module):
    def __init__(self, vocab=300, dim=32):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.attn = Attention(dim, 4, 2)
        self.up = nn.Linear(dim, 2 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)
        self.head = nn.Linear(dim, vocab, bias=False)

    @torch.compile
    def forward(self, ids):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)
        x = self.emb(ids)
        x = x + self.attn(F.rms_norm(x, x.shape[-1:]))
        x = x + self.down(F.relu(self.up(F.rms_norm(x, x.shape[-1:]))).square())
        return self.head(F.rms_norm(x, x.shape[-1:])) * self.scale
