"""llama2.c checkpoints, version 0: seven little-endian int32 and float32 tensors behind them.

Header: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: the head is a matrix of its
own), seq_len. Then the token embedding, each kind of block tensor over all layers, the last norm, tables
of rotary angles, and the head where it is not the embedding. Names and channel order are Meta's.
Source: karpathy/llama2.c, `export.py`, `legacy_export`, and `run.c`, `memory_map_weights`.
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.errors import UsageError

_HEADER = struct.Struct("<7i")
_LARGEST = (1 << 16, 1 << 18, 1 << 10, 1 << 10, 1 << 10, 1 << 20, 1 << 20)
# What llama2.c's own code has built in; all else is as in Llama.
_FIXED = {"model_type": "llama", "rope_theta": 10000.0, "rms_norm_eps": 1e-5}


@dataclass(frozen=True)
class _Header:
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    tied: bool

    @property
    def layout(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of everything stored, in order; "{}" stands for the layers."""
        d, f, v = self.dim, self.hidden_dim, self.vocab_size
        head_dim = d // self.n_heads
        kv = head_dim * self.n_kv_heads
        tables = (self.seq_len, head_dim // 2)
        entries = [
            ("tok_embeddings.weight", (v, d)),
            ("layers.{}.attention_norm.weight", (d,)),
            ("layers.{}.attention.wq.weight", (d, d)),
            ("layers.{}.attention.wk.weight", (kv, d)),
            ("layers.{}.attention.wv.weight", (kv, d)),
            ("layers.{}.attention.wo.weight", (d, d)),
            ("layers.{}.ffn_norm.weight", (d,)),
            ("layers.{}.feed_forward.w1.weight", (f, d)),
            ("layers.{}.feed_forward.w2.weight", (d, f)),
            ("layers.{}.feed_forward.w3.weight", (f, d)),
            ("norm.weight", (d,)),
            ("freqs_cos", tables),
            ("freqs_sin", tables),
        ]
        expanded = [
            (name.format(i), shape)
            for name, shape in entries
            for i in range(self.n_layers if "{}" in name else 1)
        ]
        return expanded if self.tied else [*expanded, ("output.weight", (v, d))]


def looks_like(data: bytes) -> bool:
    """Whether a file begins with seven numbers that can be a llama2.c header."""
    return _header(data) is not None


def _header(data: bytes) -> _Header | None:
    if len(data) < _HEADER.size:
        return None
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = _HEADER.unpack_from(data)
    values = (dim, hidden, layers, heads, kv_heads, abs(vocab), seq_len)
    if not all(0 < x <= top for x, top in zip(values, _LARGEST, strict=True)):
        return None
    if dim % (2 * heads) or heads % kv_heads:
        return None
    return _Header(dim, hidden, layers, heads, kv_heads, abs(vocab), seq_len, tied=vocab > 0)


def read_llama2c(data: bytes, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by Meta's names, and the config by transformers' names.

    Args:
        data: the whole file, of which `looks_like` is true.
        path: where it came from, for messages.

    Raises:
        UsageError: the file's size is not what its header promises.
    """
    header = _header(data)
    assert header is not None
    layout = header.layout
    promised = _HEADER.size + 4 * sum(prod(shape) for _, shape in layout)
    if len(data) != promised:
        state = "is truncated" if len(data) < promised else "has bytes left over"
        raise UsageError(
            f"{path} {state}: it looks like a llama2.c checkpoint, whose header promises "
            f"{promised:,} bytes, and has {len(data):,}",
            "copy or export the checkpoint again",
        )
    tensors, at = {}, _HEADER.size
    for name, shape in layout:
        values = np.frombuffer(data, "<f4", prod(shape), at).astype(np.float32)
        tensors[name] = torch.from_numpy(values.reshape(shape))
        at += 4 * prod(shape)
    told = {"num_attention_heads": header.n_heads, "max_position_embeddings": header.seq_len}
    return tensors, told | _FIXED
