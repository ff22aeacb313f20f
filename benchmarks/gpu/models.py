"""Checkpoints and tokens that look enough like real ones to be timed with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.measure import Job
from golfpack.data.shards import read_tokens, write_shard
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import spec
from golfpack.models.model import Model


def looks_trained(config: Mapping[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Float32 weights: low rank plus noise, rows and columns of unequal size, gains near 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {}
    for t in spec(config).tensors:
        if t.role == "vector":
            weights[t.name] = 1 + 0.1 * normal(*t.shape)
            continue
        rows, cols = t.shape
        rank = max(1, cols // 8)
        low = normal(rows, rank) @ normal(rank, cols) / rank**0.5
        sizes = torch.exp(0.4 * normal(rows, 1) + 0.3 * normal(1, cols))
        weights[t.name] = (low + 0.5 * normal(rows, cols)) * sizes / cols**0.5
    return weights


def save_checkpoint(config: Mapping[str, Any], path: Path) -> Model:
    """Such weights as a checkpoint on disk, and read back."""
    torch.save(looks_trained(config), path)
    return load_checkpoint(path, {"seq_len": config["seq_len"]})


def some_tokens(job: Job, vocab_size: int, count: int) -> np.ndarray:
    """(count,) uint16: of the shards that were given, where they are long enough, else Zipfian."""
    if job.tokens is not None:
        found = read_tokens(job.tokens, count)
        if len(found) == count and int(found.max()) < vocab_size:
            return found
    ranks = np.arange(1, vocab_size + 1, dtype=np.float64)
    p = (1 / ranks) / (1 / ranks).sum()
    return np.random.default_rng(0).choice(vocab_size, count, p=p).astype(np.uint16)


def save_shard(job: Job, vocab_size: int, count: int, path: Path) -> Path:
    """The same as a shard."""
    write_shard(path, some_tokens(job, vocab_size, count))
    return path
