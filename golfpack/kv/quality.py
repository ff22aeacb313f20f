"""What a cache costs in quality: teacher-forced logits against those of another cache."""

from dataclasses import dataclass
from math import exp

import torch
import torch.nn.functional as F
from torch import nn

from golfpack.kv.cache import StoredCache
from golfpack.kv.layout import CacheLayout


@dataclass(frozen=True)
class Quality:
    """How far a cache's distributions are from a reference's, over the same tokens.

    Attributes:
        kl: KL(reference || cache), nats per token.
        nll_rise: of the tokens, nats per token; below 0 where they became likelier.
        ppl_ratio: perplexity under the cache over that under the reference.
        max_logit_change: the largest change of any logit.
    """

    kl: float
    nll_rise: float
    ppl_ratio: float
    max_logit_change: float


@dataclass(frozen=True)
class Limits:
    """What a tuned cache may cost; beyond any of them it is refused."""

    kl: float = 0.02
    nll_rise: float = 0.02
    ppl_ratio: float = 1.02
    max_logit_change: float = 0.5

    def broken(self, found: Quality) -> str | None:
        """The first limit that a quality is beyond, in words; None where it keeps all."""
        for name, most in vars(self).items():
            value = getattr(found, name)
            if not value <= most:
                return f"{name} {value:.4g} is above {most:g}"
        return None


@torch.no_grad()
def forced_logits(
    module: nn.Module, tokens: torch.Tensor, layout: CacheLayout, prefill: int
) -> torch.Tensor:
    """Logits (B, T - prefill, V) of tokens (B, T), read one by one behind a prefill in one piece."""
    cache = StoredCache(layout, tokens.shape[1])
    sizes = [prefill, *[1] * (tokens.shape[1] - prefill)] if prefill else [1] * tokens.shape[1]
    parts = [module(part, cache=cache) for part in tokens.split(sizes, dim=1)]
    return torch.cat(parts[1:] if prefill else parts, dim=1)


def compare_logits(reference: torch.Tensor, found: torch.Tensor, targets: torch.Tensor) -> Quality:
    """The quality of logits (B, K, V) against a reference's, at targets (B, K)."""
    p, q = (z.double().log_softmax(-1) for z in (reference, found))
    nll = [F.nll_loss(z.flatten(0, 1), targets.flatten()).item() for z in (p, q)]
    kl = (p.exp() * (p - q)).sum(-1).mean().item()
    change = (reference.double() - found.double()).abs().max().item()
    return Quality(max(kl, 0.0), nll[1] - nll[0], exp(min(nll[1] - nll[0], 700.0)), change)


def cache_quality(
    module: nn.Module,
    tokens: torch.Tensor,
    layout: CacheLayout,
    reference: CacheLayout,
    prefill: int,
) -> Quality:
    """Teacher-forced: what a cache costs against a reference, on tokens (B, T + 1) behind a prefill."""
    read, targets = tokens[:, :-1], tokens[:, prefill + 1 :]
    logits = [forced_logits(module, read, form, prefill) for form in (reference, layout)]
    return compare_logits(logits[0], logits[1], targets)
