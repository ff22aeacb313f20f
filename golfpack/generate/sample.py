"""One token out of a distribution, from a generator of our own."""

from dataclasses import dataclass
from math import isfinite

import torch

from golfpack.base.convert import check_seed, require
from golfpack.errors import UsageError
from golfpack.models.base import pick


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: divides the logits; 1 is the model's own distribution, 0 takes the likeliest.
        top_k: among that many of the likeliest tokens, and those as likely as the last; 0: among all.
        top_p: of those, among the likeliest that hold this much of the probability together; 1: all.
        seed: of everything random.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        sane = isfinite(self.temperature) and self.temperature >= 0
        require(sane, f"a temperature of {self.temperature} cannot be", "give 0 or more")
        require(self.top_k >= 0, f"--top-k {self.top_k} cannot be", "give 1 or more; 0 takes all")
        inside = 0 < self.top_p <= 1
        require(inside, f"--top-p {self.top_p} cannot be", "give more than 0, at most 1")
        check_seed(self.seed)


def probabilities(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
    """What tokens are drawn with: logits (V,) -> (V,) float64 that sum to 1.

    The likeliest token of all is always among those left.

    Raises:
        UsageError: the logits are not finite.
    """
    z = logits.double()
    if not bool(z.isfinite().all()):
        raise UsageError(
            "the model's logits are not finite, so it cannot write text",
            "check its config and its weights, and that --kv-cache fp32 does the same",
        )
    if how.temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(), len(z)).double()
    # The largest logit first becomes 0, so that a tiny temperature makes no infinities.
    z = (z - z.max()) / how.temperature
    if 0 < how.top_k < len(z):
        z = z.masked_fill(z < z.topk(how.top_k).values[-1], -torch.inf)
    p = z.softmax(-1)
    if how.top_p < 1:
        falling = p.sort(descending=True, stable=True)
        before = falling.values.cumsum(-1) - falling.values
        p = p.index_fill(0, falling.indices[before >= how.top_p], 0.0)
    return p / p.sum()


class Sampler:
    """Draws tokens, the same ones for the same seed and logits; no global state is touched."""

    def __init__(self, how: Sampling) -> None:
        self.how = how
        self._generator = torch.Generator().manual_seed(how.seed)

    def __call__(self, logits: torch.Tensor) -> int:
        """A token id, by logits (V,) on any device."""
        p = probabilities(logits.cpu(), self.how)
        noise = torch.empty_like(p).exponential_(generator=self._generator)
        return int(pick(p, noise))
