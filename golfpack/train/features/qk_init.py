"""The first block's queries and keys from which tokens stand beside each other.

Source: seed 004, "Co-occurrence QK Initialization" (openai/parameter-golf, SPThole, 2026-03-24). Its
README wants scores q_i . k_j near C_ij, C being log(1 + counts of neighbours), centred. Its program
projects C by a random matrix that the embedding has nothing to do with, and gives the query heads of one
key head components that this key head lacks. Here C is brought into the space of what the block reads by
least squares, and each key head has its components in common with its query heads.
"""

import numpy as np
import torch

from golfpack.errors import UsageError
from golfpack.models.training import FirstAttention


def neighbours(tokens: np.ndarray, vocab_size: int) -> torch.Tensor:
    """C (V, V) float64: log(1 + times two tokens are neighbours, in either order), doubly centred."""
    pairs = tokens[:-1].astype(np.int64) * vocab_size + tokens[1:]
    counts = np.bincount(pairs, minlength=vocab_size * vocab_size).reshape(vocab_size, vocab_size)
    c = np.log1p(counts + counts.T.astype(np.float64))
    c -= c.mean(1, keepdims=True)
    c -= c.mean(0, keepdims=True)
    return torch.from_numpy(c)


@torch.no_grad()
def set_queries_and_keys(first: FirstAttention, tokens: np.ndarray) -> None:
    """Set the block's matrices in place, at the norms they had.

    With X the inputs, M = X^+ C X^+^T is the matrix whose x_i M x_j are nearest to C_ij; key head g
    takes the components from g d on of its singular value decomposition, and its query heads the same.

    Raises:
        UsageError: there are more channels of keys than the inputs have.
    """
    width = first.keys.shape[0] // first.kv_heads
    if first.keys.shape[0] > first.keys.shape[1]:
        raise UsageError(
            f"{first.keys.shape[0]} channels of keys have no components of their own in inputs of "
            f"{first.keys.shape[1]}",
            "leave out train.qk_init_tokens",
        )
    inverse = torch.linalg.pinv(first.inputs.double().cpu())
    u, s, vt = torch.linalg.svd(inverse @ neighbours(tokens, len(first.inputs)) @ inverse.T)
    kept = first.kv_heads * width
    queries = (u[:, :kept] * s[:kept].sqrt()).T.unflatten(0, (first.kv_heads, width))
    keys = vt[:kept] * s[:kept, None].sqrt()
    shared = first.heads // first.kv_heads
    _set(first.queries, queries.repeat_interleave(shared, dim=0).flatten(0, 1))
    _set(first.keys, keys)


def _set(parameter: torch.Tensor, values: torch.Tensor) -> None:
    norm = parameter.double().norm().cpu()
    parameter.copy_(values * (norm / values.norm().clamp(min=1e-12)))
