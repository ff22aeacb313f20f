"""What a model's attention does on a fixed stretch of text, and how full its projections are.

Attention is seen where it happens: calls of torch's `scaled_dot_product_attention`, and softmaxes over
(B, H, T, S), or (B, T, T) of a single head, in models that cap or bound their scores first. So the
figures are of the scores that the model uses, whatever its family. A call whose keys are more than the
tokens has the learned ones (null keys) first. Names of the figures are those of
TheApeMachine/decoupled-bottleneck-attention's logs:

    attn_entropy_mean         -sum p ln p over the keys of a query, nats
    attn_topk_mass_mean       share of the TOP_K largest weights of a query
    attn_local_mass_mean      share of the query's own position and the LOCAL - 1 before it
    attn_null_mass_mean       share of null keys, where there are any
    NAME_energy_ratio_mean    mean square of a part's scores over the sum of all parts', where scores
                              have parts; these ratios sum to 1
    attn_erank_mean           exp of the entropy of the weights' singular values, as shares of their sum
    proj_stable_rank_mean     |W|_F^2 / |W|_2^2 of the attention's projections

Means are over queries, heads and layers. A model that runs a layer twice has it twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from golfpack.errors import UsageError
from golfpack.spec import ModelSpec
from golfpack.train.loss import evaluating

TOP_K = 8
LOCAL = 32
# Tokens looked at: weights of every head are (T, T), and their singular values cost T^3.
TOKENS = 128
_SOFTMAXES = (torch.Tensor.softmax, torch.softmax, F.softmax)
_PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_out")


@dataclass(frozen=True, eq=False)
class Layer:
    """What was seen of one call of attention.

    Attributes:
        weights: (H, T, S) float32, each row of sum 1.
        scores: of each part, (H, T, S) before the mask; empty where scores have no parts.
    """

    weights: torch.Tensor
    scores: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyse` found.

    Attributes:
        figures: means, by the names above.
        layers: in the order in which the model called them.
        singular: singular values of each layer's weights, (H, min(T, S)).
    """

    figures: dict[str, float]
    layers: Sequence[Layer]
    singular: Sequence[torch.Tensor]


class _Watch(TorchFunctionMode):
    """Writes down attention's weights, and changes nothing."""

    def __init__(self, parts: Mapping[str, int], length: int) -> None:
        super().__init__()
        self.parts, self.length = parts, length
        self.layers: list[Layer] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.layers.append(_fused(self.parts, *args, **kwargs))
        elif func in _SOFTMAXES and self._is_attention(out.shape):
            self.layers.append(Layer(out.flatten(0, -3).float()))
        return out

    def _is_attention(self, shape: Sequence[int]) -> bool:
        """(1, H, T, S), or (1, T, T) of a single head; what else has a softmax is none."""
        of_heads = len(shape) == 4 or (len(shape) == 3 and shape[-1] == self.length)
        return of_heads and shape[0] == 1 and shape[-2] == self.length


def _fused(
    parts: Mapping[str, int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Layer:
    """The weights inside a call of `scaled_dot_product_attention` on one sequence."""
    if query.ndim == 3:  # a single head, and no axis for it
        query, key = query[:, None], key[:, None]
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask[:, None]
    q, k = query[0].float(), key[0].float()
    k = k.repeat_interleave(len(q) // len(k), 0)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(1, 2) * factor
    if is_causal:
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        mask = attn_mask[0] if attn_mask.ndim == 4 else attn_mask
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    found, first = dict[str, torch.Tensor](), 0
    for name, width in parts.items():
        which = slice(first, first + width)
        found[name] = q[..., which] @ k[..., which].transpose(1, 2) * factor
        first += width
    return Layer(scores.softmax(-1), found)


@torch.no_grad()
def analyse(
    model: nn.Module, spec: ModelSpec, tokens: np.ndarray, parts: Mapping[str, int]
) -> Analysis:
    """Figures of a model on tokens (T,), without dropout.

    Args:
        parts: of every head's queries and keys, side by side: name -> width; {} where they have none.

    Raises:
        UsageError: no attention was seen, or a figure is not finite.
    """
    device = next(model.parameters()).device
    row = torch.from_numpy(tokens[None].astype(np.int64)).to(device)
    watch = _Watch(parts, len(tokens))
    with evaluating(model), watch:
        model(row)
    if not watch.layers:
        raise UsageError(
            "no attention was seen in this model, so there is nothing to analyse",
            "leave out train.analyse_every",
        )
    singular = [torch.linalg.svdvals(layer.weights) for layer in watch.layers]
    figures = _figures(watch.layers, len(tokens))
    figures["attn_erank_mean"] = _mean([effective_rank(s) for s in singular])
    weights = dict(model.named_parameters())
    ranks = [
        stable_rank(weights[t.name])
        for t in spec.tensors
        if t.role in _PROJECTIONS and len(t.shape) == 2
    ]
    if ranks:
        figures["proj_stable_rank_mean"] = _mean(ranks)
    for name, value in figures.items():
        if not np.isfinite(value):
            raise UsageError(f"{name} is {value}", "the model overflows on these tokens")
    return Analysis(figures, watch.layers, singular)


def _figures(layers: Sequence[Layer], length: int) -> dict[str, float]:
    found: dict[str, list[torch.Tensor]] = {}

    def add(name: str, value: torch.Tensor) -> None:
        found.setdefault(name, []).append(value)

    for layer in layers:
        p = layer.weights
        nulls = p.shape[-1] - length
        add("attn_entropy_mean", -(p * p.clamp(min=1e-30).log()).sum(-1))
        add("attn_topk_mass_mean", p.topk(min(TOP_K, p.shape[-1])).values.sum(-1))
        own = p[..., nulls:]
        add("attn_local_mass_mean", own.tril().triu(1 - LOCAL).sum(-1))
        if nulls:
            add("attn_null_mass_mean", p[..., :nulls].sum(-1))
        if layer.scores:
            seen = torch.ones(length, length, dtype=torch.bool, device=p.device).tril()
            energy = {n: s[..., nulls:][:, seen].square().mean(-1) for n, s in layer.scores.items()}
            whole = torch.stack(list(energy.values())).sum(0)
            for name, value in energy.items():
                add(f"{name}_energy_ratio_mean", value / whole)
    return {name: _mean(values) for name, values in found.items()}


def effective_rank(singular: torch.Tensor) -> torch.Tensor:
    """Exp of the entropy of singular values (..., n) as shares of their sum; n for the identity.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    p = singular / singular.sum(-1, keepdim=True)
    return (-(p * p.clamp(min=1e-30).log()).sum(-1)).exp()


def stable_rank(matrix: torch.Tensor) -> torch.Tensor:
    """|W|_F^2 / |W|_2^2 of a matrix, (): at most its rank; 0 where it is zero, as some begin."""
    squares = torch.linalg.svdvals(matrix.detach().float()).square()
    return torch.where(squares[0] > 0, squares.sum() / squares[0], 0.0)


def _mean(values: Sequence[torch.Tensor]) -> float:
    return torch.stack([v.double().mean() for v in values]).mean().item()
