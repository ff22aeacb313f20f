"""What bits cost while codes are trained: a part of every gradient.

A code that only wants a lower KL takes bits for it that are not worth it, so each bit has a price, in
nats, and its slope is one more part of the gradient; the caller steers the file's size by the price.
"""

from collections.abc import Callable, Mapping
from math import log

import torch

from golfpack.build.adam import Adam
from golfpack.build.latents import Latent

# What a bit is to cost from here on, in USUAL_PRICE. Told: the latents by parameter name, on the CPU;
# the share of the way that is behind them, by rates; and how many bits a unit saves on the rest of it,
# by the gradients; None at the start, where none has been seen.
Price = Callable[[Mapping[str, Latent], float, float | None], float]
# What a bit is worth, as a share of the loss over the weights: an error falls with 2^(-2 bits).
USUAL_PRICE = 2 * log(2)
# The bits of a latent's code rise with its size but for this near 0, in steps, where they turn.
TURN = 0.25


class Toll:
    """What bits cost: a part of every gradient."""

    def __init__(self, price: Price | None, count: int) -> None:
        self.price, self.count = price, count
        self.slopes: dict[str, torch.Tensor] = {}
        self.units = 0.0

    def unit(self, loss: float, tokens: int) -> float:
        """What a bit is worth at such a loss, in nats of a batch of so many tokens."""
        return USUAL_PRICE * max(loss, 0.0) / self.count * tokens

    def look(
        self,
        latents: Mapping[str, Latent],
        adam: Mapping[str, Adam],
        behind: float,
        ahead: float | None,
        epsilon: torch.Tensor,
    ) -> None:
        """Ask for the price from here on.

        Args:
            latents, adam: by parameter name.
            behind: the share of the way that is, see `Price`.
            ahead: the sum of the rates that are, times the nats of a unit; None where no gradient has
                been seen.
            epsilon: see `Adam.change`.
        """
        if self.price is None:
            return
        self.slopes = {name: x.bit_slopes() for name, x in latents.items()}
        saved = None
        if ahead is not None:
            answers = (
                adam[n].answer(s * _pull(latents[n].z), epsilon) for n, s in self.slopes.items()
            )
            saved = ahead * sum(answers)
        self.units = self.price({n: x.on("cpu") for n, x in latents.items()}, behind, saved)

    def added(self, gradient: torch.Tensor, name: str, latent: Latent, unit: float) -> torch.Tensor:
        """The gradient by a latent, (rows, cols), with the slope of what its bits cost; in place."""
        if self.units:
            gradient.addcmul_(self.slopes[name], _pull(latent.z), value=self.units * unit)
        return gradient


def _pull(z: torch.Tensor) -> torch.Tensor:
    """The sign of latents, but near 0."""
    return z / (z.abs() + TURN)
