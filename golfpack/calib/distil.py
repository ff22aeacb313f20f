"""Self-distillation: codes trained against the float model itself, at fixed steps.

Rounding looks at one matrix at a time and at second moments of what it meets. What is left of the KL
after it is mostly between matrices, and a gradient sees that. So every code gets a real number beside
it, its latent; the network runs with the nearest integers, and the gradient of KL(float || quantised)
goes to the latents as if they had not been rounded (the straight-through estimator, Bengio et al., arXiv
1308.3432, section 4). No label is needed, and steps, and so nearly the file's size, stay as they are.

Sequences of a batch are independent: each is one thread's work, gradients are added in order, and
everything else is elementwise. So the result does not depend on the number of threads.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import cos, pi

import numpy as np
import torch
from torch import nn

from golfpack.calib.stats import torch_threads_restored
from golfpack.errors import UsageError
from golfpack.packer.parallel import map_ordered

Progress = Callable[[int, int, str], None]

# Tokens per update. Small: at equal tokens, more updates at a lower rate win (docs/LOG.md).
BATCH_TOKENS = 1024
# A latent starts at its float weight, but no further from its code than this, so that the first
# forward pass is the rounding it starts from.
HEADROOM = 0.45
BETAS = (0.9, 0.99)
# Added to each gradient's size, as a share of the network's: what hardly matters hardly moves. Steps
# are such that all that matters has gradients of one size.
EPSILON = 0.1
# Peak rate times updates, in steps: how far a latent that is always pulled one way may travel, about.
TRAVEL = 1.0
MAX_RATE = 0.005
# The KL shown is a moving average over about so many updates.
SHOWN = 0.1
TINY = 1e-30  # where no gradient has been seen at all


@dataclass(frozen=True, eq=False)
class Latent:
    """A quantised matrix while its codes are trained.

    Attributes:
        z: float32 (rows, cols), in steps; its code is the nearest integer.
        step: float32 (rows, cols), what one code is worth.
        offset: float32 (rows, cols), what is added to the product (a low-rank correction), or None.
        limit: largest |code|, or None.
        shape: the tensor's own.
    """

    z: torch.Tensor
    step: torch.Tensor
    offset: torch.Tensor | None
    limit: int | None
    shape: tuple[int, ...]

    def weight(self) -> torch.Tensor:
        """The weights that the network runs with, in the tensor's own shape."""
        w = torch.round(self.z) * self.step
        return (w if self.offset is None else w + self.offset).reshape(self.shape)

    def move(self, change: torch.Tensor) -> None:
        """Add to `z` in place, within the limit."""
        self.z.add_(change)
        if self.limit is not None:
            self.z.clamp_(-self.limit, self.limit)


def latent(
    w: np.ndarray, codes: np.ndarray, step: np.ndarray, limit: int | None, shape: tuple[int, ...],
    offset: np.ndarray | None = None,
) -> Latent:  # fmt: skip
    """The latent of one matrix: `w` its float weights, all arrays (rows, cols)."""
    start = w if offset is None else w - offset
    away = np.clip(start / step - codes, -HEADROOM, HEADROOM)
    z, steps = (torch.from_numpy(x.astype(np.float32)) for x in (codes + away, step))
    kept = None if offset is None else torch.from_numpy(offset.astype(np.float32))
    return Latent(z, steps, kept, limit, shape)


def distil(
    teacher: nn.Module,
    student: nn.Module,
    latents: Mapping[str, Latent],
    sequences: np.ndarray,
    *,
    tokens: int,
    seed: int,
    threads: int,
    progress: Progress | None = None,
) -> float:
    """Train `latents` in place to lower KL(teacher || student); returns its last running mean.

    Args:
        teacher, student: tokens (B, T) -> logits (B, T, V); left as they were.
        latents: by parameter name of the student; what has none stays as it is.
        sequences: (n, length), drawn from in a new order whenever all have been seen.
        tokens: to train on, in updates of about BATCH_TOKENS each.
        seed: of the order.

    Raises:
        UsageError: the KL is not finite.
    """
    length = sequences.shape[1]
    per_batch = max(1, BATCH_TOKENS // length)
    updates = max(1, tokens // (per_batch * length))
    peak = min(TRAVEL / updates, MAX_RATE)
    adam = {name: _Adam(x.z) for name, x in latents.items()}
    local, shown = threading.local(), 0.0
    draw = _shuffled(len(sequences), seed)
    with torch_threads_restored():
        for done in range(updates):
            weights = {name: x.weight() for name, x in latents.items()}
            batch = sequences[list(islice(draw, per_batch))]

            def one(row: np.ndarray, weights: Mapping[str, torch.Tensor] = weights) -> "_Found":
                if not hasattr(local, "pair"):
                    torch.set_num_threads(1)
                    local.pair = _Pair(copy.deepcopy(teacher), copy.deepcopy(student), latents)
                return local.pair.run(row, weights)

            total, gradients = _added(map_ordered(one, list(batch), threads))
            kl = total / batch.size
            if not np.isfinite(kl):
                raise UsageError(
                    f"the KL is {kl} after {done} updates of --refine",
                    "the model overflows on these tokens; build without --refine",
                )
            rate = peak * 0.5 * (1 + cos(pi * done / updates))
            for name, x in latents.items():
                adam[name].see(gradients[name] * x.step)
            usual = sum(a.power for a in adam.values()) / sum(x.z.numel() for x in latents.values())
            for name, x in latents.items():
                x.move(adam[name].change(rate, EPSILON * usual**0.5))
            shown = kl if done == 0 else (1 - SHOWN) * shown + SHOWN * kl
            if progress is not None:
                progress(done + 1, updates, f"KL {shown:.5f}")
    return shown


_Found = tuple[float, dict[str, torch.Tensor]]


class _Pair:
    """One thread's own copies of both networks."""

    def __init__(self, teacher: nn.Module, student: nn.Module, latents: Mapping[str, Latent]):
        self.teacher = teacher.requires_grad_(False)
        self.student = student.requires_grad_(False)
        self.trained = {n: self.student.get_parameter(n).requires_grad_(True) for n in latents}
        self.shapes = {name: x.z.shape for name, x in latents.items()}

    def run(self, row: np.ndarray, weights: Mapping[str, torch.Tensor]) -> _Found:
        """Summed KL over a sequence (length,), and its gradient by the weights, as matrices."""
        tokens = torch.from_numpy(row.astype(np.int64))[None]
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(weights[name])
                p.grad = None
            p = self.teacher(tokens).float().log_softmax(-1)
        q = self.student(tokens).float().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum()
        kl.backward()
        gradients = {
            name: torch.zeros(self.shapes[name])
            if p.grad is None
            else p.grad.reshape(self.shapes[name])
            for name, p in self.trained.items()
        }
        return float(kl.detach()), gradients


class _Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) of one tensor, its epsilon given at every step."""

    def __init__(self, like: torch.Tensor) -> None:
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.count = 0

    def see(self, gradient: torch.Tensor) -> None:
        """Take a gradient into the moving averages."""
        self.count += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])

    @property
    def power(self) -> float:
        """Sum of the squared gradients, by their moving average."""
        return float(self.square.double().sum()) / (1 - BETAS[1] ** self.count)

    def change(self, rate: float, epsilon: float) -> torch.Tensor:
        """What to add to the tensor."""
        mean = self.mean / (1 - BETAS[0] ** self.count)
        spread = (self.square / (1 - BETAS[1] ** self.count)).sqrt_().add_(max(epsilon, TINY))
        return mean.div_(spread).mul_(-rate)


def _added(found: Iterator[_Found]) -> _Found:
    total, sums = next(found)
    for kl, gradients in found:
        total += kl
        for name, g in gradients.items():
            sums[name] += g
    return total, sums


def _shuffled(count: int, seed: int) -> Iterator[int]:
    """Indices below `count`, all of them in a new order time and again."""
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.permutation(count).tolist()
