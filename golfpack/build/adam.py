"""Adam as trained codes take it: one tensor's averages, and a floor under gradients that all share."""

from collections.abc import Sequence

import torch

from golfpack.build.latents import TINY

BETAS = (0.9, 0.99)
# Where the network's usual gradient is more than so many times the median tensor's, a few rule it.
OUTLIER = 4.0


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) of one tensor, its epsilon given at every step."""

    def __init__(self, like: torch.Tensor) -> None:
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.count = 0

    def see(self, gradient: torch.Tensor) -> None:
        """Take a gradient into the moving averages."""
        self.count += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])

    def power(self) -> torch.Tensor:
        """Sum of the squared gradients, by their moving average; float64."""
        return self.square.sum(dtype=torch.float64) / (1 - BETAS[1] ** self.count)

    def change(self, rate: float, epsilon: torch.Tensor) -> torch.Tensor:
        """What to add to the tensor."""
        mean = self.mean / (1 - BETAS[0] ** self.count)
        return mean.div_(self._spread(epsilon)).mul_(-rate)

    def answer(self, slopes: torch.Tensor, epsilon: torch.Tensor) -> float:
        """How many bits a unit of rate saves at a price of one nat, where bits have these slopes."""
        return float((slopes * slopes).div_(self._spread(epsilon)).sum(dtype=torch.float64))

    def _spread(self, epsilon: torch.Tensor) -> torch.Tensor:
        return (self.square / (1 - BETAS[1] ** self.count)).sqrt_().add_(epsilon.clamp(min=TINY))


def usual_size(powers: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """The root mean square of all gradients, (), but for outliers.

    Where a row of an embedding is rounded to zeros, the norm behind it has a slope of a thousand or
    more, and its gradients alone would be the network's.

    Args:
        powers: summed squares of each tensor's gradients.
        sizes: how many those are.
    """
    stacked = torch.stack(list(powers))
    each = stacked / torch.tensor(sizes, device=stacked.device)
    whole = stacked.sum().div(sum(sizes)).sqrt()
    # Tensors without a gradient say nothing of what is usual; where none has one, that is `whole`.
    median = torch.where(each > 0, each, torch.nan).nanmedian()
    return torch.fmin(whole, OUTLIER * median.sqrt())
