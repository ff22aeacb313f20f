"""Self-distillation: codes trained against the float model itself, at fixed steps.

Rounding looks at one matrix at a time and at second moments of what it meets. What is left of the KL
after it is mostly between matrices, and a gradient sees that. So every code gets a real number beside
it, its latent; the network runs with the nearest integers, and the gradient of KL(float || quantized)
goes to the latents as if they had not been rounded (the straight-through estimator, Bengio et al., arXiv
1308.3432, section 4). No label is needed. The gradient leaves the steps as they are, and so nearly the
file's size; on the way the caller may put the same weights on other steps, to correct it.

On the CPU every sequence of a batch is one thread's work, gradients are added in order, and everything
else is elementwise. So the result does not depend on the number of threads. On a device a batch is run
as one, and nothing waits for the device but a look at the KL now and then.
"""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import cos, pi, sqrt

import numpy as np
import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.calib.stats import torch_threads_restored
from golfpack.errors import UsageError
from golfpack.models.device import exact_products, send

Progress = Callable[[int, int, str], None]
# Latents by parameter name -> the same weights on other steps.
Resize = Callable[[Mapping[str, "Latent"]], Mapping[str, "Latent"]]

# Tokens per update. Small: at equal tokens, more updates at a lower rate win (docs/LOG.md).
BATCH_TOKENS = 1024
# A latent starts at its float weight, but no further from its code than this, so that the first
# forward pass is the rounding it starts from.
HEADROOM = 0.45
BETAS = (0.9, 0.99)
# Added to each gradient's size, as a share of the network's: what hardly matters hardly moves. Steps
# are such that all that matters has gradients of one size.
EPSILON = 0.1
# Peak rate, in steps per update, of up to so many updates; of more it falls with the root of their
# number, as codes would else walk too far where the KL is flat, which also makes the file larger.
RATE, SHORT = 0.005, 300
# After these shares of the updates steps may change. Codes that flip then cost KL until training has
# mended it, so the last change comes while there is some rate left (docs/LOG.md).
LOOKS = (0.4, 0.6, 0.8)
# The KL shown is a moving average over about so many updates.
SHOWN = 0.1
# On a device the KL is looked at after so many updates.
DEVICE_LOOKS = 20
TINY = 1e-30  # where no gradient has been seen at all


@dataclass(frozen=True, eq=False)
class Latent:
    """A quantized matrix while its codes are trained.

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

    def on(self, device: str) -> "Latent":
        """The same on a device; `z` is a copy."""
        offset = None if self.offset is None else self.offset.to(device)
        return replace(
            self, z=self.z.to(device, copy=True), step=self.step.to(device), offset=offset
        )

    def move(self, change: torch.Tensor) -> None:
        """Add to `z` in place, within the limit."""
        self.z.add_(change)
        if self.limit is not None:
            self.z.clamp_(-self.limit, self.limit)

    def onto(self, other: "Latent") -> "Latent":
        """The same weights, before rounding, on the steps and with the offset of `other`."""
        z = self.z * self.step
        z = z if self.offset is None else z + self.offset
        z = (z if other.offset is None else z - other.offset).div_(other.step)
        return replace(other, z=z if other.limit is None else z.clamp_(-other.limit, other.limit))


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
    text: np.ndarray,
    *,
    threads: int,
    device: str | None = None,
    resize: Resize | None = None,
    progress: Progress | None = None,
) -> dict[str, Latent]:
    """Latents trained to lower KL(teacher || student).

    Args:
        teacher, student: tokens (B, T) -> logits (B, T, V); left as they were.
        latents: by parameter name of the student; what has none stays as it is.
        text: (n, length) tokens in the order of training, in updates of about BATCH_TOKENS each.
        threads: of the CPU, where `device` is None.
        device: what runs whole batches.
        resize: called with the latents, on the CPU, after the shares LOOKS of the updates.

    Raises:
        UsageError: the KL is not finite.
    """
    batches = torch.from_numpy(text.astype(np.int64)).split(max(1, BATCH_TOKENS // text.shape[1]))
    updates = len(batches)
    here = {name: x.on(device or "cpu") for name, x in latents.items()}
    count = sum(x.z.numel() for x in here.values())
    adam = {name: _Adam(x.z) for name, x in here.items()}
    peak = RATE * min(1.0, sqrt(SHORT / updates))
    shown = _Shown(updates, 1 if device is None else DEVICE_LOOKS, progress)
    looks = {round(share * updates) for share in LOOKS}
    with torch_threads_restored(), exact_products():
        run = _on_threads(teacher, student, threads) if device is None else (
            _Pair(copy.deepcopy(teacher).to(device), copy.deepcopy(student).to(device)).run
        )  # fmt: skip
        for done, batch in enumerate(batches):
            if resize is not None and done > 0 and done in looks:
                found = resize({name: x.on("cpu") for name, x in here.items()})
                here = {name: x.on(device or "cpu") for name, x in found.items()}
            weights = {name: x.weight() for name, x in here.items()}
            kl, gradients = run(send(batch, device or "cpu"), weights)
            shown.see(kl / batch.numel())
            rate = peak * 0.5 * (1 + cos(pi * done / updates))
            for name, x in here.items():
                adam[name].see(gradients[name].reshape(x.z.shape) * x.step)
            usual = torch.stack([a.power() for a in adam.values()]).sum().div(count).sqrt()
            for name, x in here.items():
                x.move(adam[name].change(rate, EPSILON * usual))
    return {name: x.on("cpu") for name, x in here.items()}


# Summed KL of a batch, and its gradient by every weight that is trained.
_Found = tuple[torch.Tensor, dict[str, torch.Tensor]]
_Run = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], _Found]


class _Pair:
    """Copies of both networks that nobody else uses."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = teacher.requires_grad_(False)
        self.student = student.requires_grad_(False)

    def run(self, tokens: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> _Found:
        """Of tokens (B, T), with these weights in the student."""
        trained = {n: self.student.get_parameter(n).requires_grad_(True) for n in weights}
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(weights[name])
                p.grad = None
            p = self.teacher(tokens).float().log_softmax(-1)
        q = self.student(tokens).float().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(dtype=torch.float64)
        kl.backward()
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()
        }
        return kl.detach(), gradients


def _on_threads(teacher: nn.Module, student: nn.Module, threads: int) -> _Run:
    """A batch sequence by sequence, each on one thread."""
    local = threading.local()

    def run(batch: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> _Found:
        def one(tokens: torch.Tensor) -> _Found:
            if not hasattr(local, "pair"):
                torch.set_num_threads(1)
                local.pair = _Pair(copy.deepcopy(teacher), copy.deepcopy(student))
            return local.pair.run(tokens, weights)

        found = map_ordered(one, list(batch.split(1)), threads)
        total, sums = next(found)
        for kl, gradients in found:
            total += kl
            for name, g in gradients.items():
                sums[name] += g
        return total, sums

    return run


class _Shown:
    """The KL's moving average for the user, and a check that it is finite."""

    def __init__(self, updates: int, every: int, progress: Progress | None) -> None:
        self.updates, self.every, self.progress = updates, every, progress
        self.waiting: list[torch.Tensor] = []
        self.done, self.mean = 0, 0.0

    def see(self, kl: torch.Tensor) -> None:
        """Take in the KL per token of one more update, and look at all every so many."""
        self.waiting.append(kl)
        if len(self.waiting) < self.every and self.done + len(self.waiting) < self.updates:
            return
        for value in torch.stack(self.waiting).tolist():
            if not np.isfinite(value):
                raise UsageError(
                    f"the KL is {value} after {self.done} updates of --refine",
                    "the model overflows on these tokens; build without --refine",
                )
            self.mean = value if self.done == 0 else (1 - SHOWN) * self.mean + SHOWN * value
            self.done += 1
        self.waiting = []
        if self.progress is not None:
            self.progress(self.done, self.updates, f"KL {self.mean:.5f}")


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

    def power(self) -> torch.Tensor:
        """Sum of the squared gradients, by their moving average; float64."""
        return self.square.double().sum() / (1 - BETAS[1] ** self.count)

    def change(self, rate: float, epsilon: torch.Tensor) -> torch.Tensor:
        """What to add to the tensor."""
        mean = self.mean / (1 - BETAS[0] ** self.count)
        spread = (self.square / (1 - BETAS[1] ** self.count)).sqrt_().add_(epsilon.clamp(min=TINY))
        return mean.div_(spread).mul_(-rate)
