"""A file as users have them: it knows nothing of golfpack, and imports a neighbour.

Everything at once: a tied functional head, a block run twice, a raw parameter, a fused functional
projection, a causal mask as a buffer, and a loss beside the logits.
"""

import helper  # pyright: ignore  # beside the copy that the tests make
import torch
import torch.nn.functional as F
from torch import nn


class Mixer(nn.Module):
    def __init__(self, dim, length):
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3 * dim, dim) / dim**0.5)
        self.out_proj = nn.Linear(dim, dim)
        self.register_buffer("mask", torch.ones(length, length).tril().bool())

    def forward(self, x):
        q, k, v = F.linear(x, self.qkv).chunk(3, dim=-1)
        n = x.shape[1]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, self.mask[:n, :n]))


class Net(nn.Module):
    def __init__(self, vocab, dim=16, length=64):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.mixer = Mixer(dim, length)
        self.again = self.mixer
        self.gate = nn.Parameter(torch.ones(dim))
        self.up = nn.Parameter(torch.randn(dim, 2 * dim) / dim**0.5)
        self.down = nn.Linear(2 * dim, dim)
        self.scale = helper.SCALE

    def forward(self, ids, targets=None):
        x = self.emb(ids)
        x = x + self.mixer(x)
        x = x + self.again(x) * self.gate
        x = x + self.down(F.relu(x @ self.up))
        return F.layer_norm(x, x.shape[-1:]) @ self.emb.weight.T * self.scale, None


class LastOnly(Net):
    def forward(self, ids):
        return super().forward(ids)[0][:, -1:]


class Loss(Net):
    def forward(self, ids, targets):
        return torch.tensor(0.0)


class Linear(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids):
        return self.head(self.emb(ids))


NOT_A_CLASS = 3
