"""Self-distillation: codes trained against the float model itself, at fixed steps.

Rounding looks at one matrix at a time and at second moments of what it meets. What is left of the KL
after it is mostly between matrices, and a gradient sees that. So every code gets a real number beside
it, its latent; the network runs with the nearest integers, and the gradient of KL(float || quantized)
goes to the latents as if they had not been rounded (the straight-through estimator, Bengio et al., arXiv
1308.3432, section 4). No label is needed; a share of the target may be what the text goes on with, for
those who want a lower cross entropy on such text. The gradient leaves the steps as they are, and bits
have a price (`build.toll`). `build.in_turn` trains weights with it that are not rounded yet.

Gradients do not depend on the number of threads (`build.gradients`), and everything else is elementwise.
On a device nothing waits for it but a look at the loss now and then.
"""

from collections.abc import Callable, Mapping
from math import cos, pi, sin, sqrt

import numpy as np
import torch
from torch import nn

from golfpack.build.adam import Adam, usual_size
from golfpack.build.gradients import on_device, on_threads
from golfpack.build.helpers import NO_HELP, Helpers, weights_by_name
from golfpack.build.latents import Latent
from golfpack.build.toll import Price, Toll
from golfpack.calib.stats import torch_threads_restored
from golfpack.errors import UsageError
from golfpack.models.device import exact_products

Progress = Callable[[int, int, str], None]

# Tokens per update: at equal tokens, more updates at a lower rate win, until what does not grow with the
# tokens, such as the updates themselves, takes the time (docs/LOG.md). The first up to so many weights.
FEW_TOKENS, BATCH_TOKENS, FEW_WEIGHTS = 256, 512, 1_000_000
# Added to each gradient's size, as a share of the network's: what hardly matters hardly moves. Steps
# are such that all that matters has gradients of one size.
EPSILON = 0.1
# The peak rate, in steps per update, at most; and its product with the root of the updates, which is how
# far noise alone moves a latent. With less than half a token per weight there is less to tell a gradient
# from its noise by, and it falls with the fourth root of what there is (docs/LOG.md).
RATE, WALK = 0.005, 0.087
# The price of a bit is told anew after these shares of the updates.
LOOKS = (0.1, 0.25, 0.4, 0.55)
# The KL shown is a moving average over about so many updates.
SHOWN = 0.1
# On a device the KL is looked at after so many updates.
DEVICE_LOOKS = 20


def tokens_per_update(weights: int) -> int:
    """Tokens per update, about, of so many weights."""
    return FEW_TOKENS if weights <= FEW_WEIGHTS else BATCH_TOKENS


def distil(
    teacher: nn.Module,
    student: nn.Module,
    latents: Mapping[str, Latent],
    text: np.ndarray,
    *,
    threads: int,
    device: str | None = None,
    labels: float = 0.0,
    rate: float | None = None,
    at_once: int | None = None,
    price: Price | None = None,
    progress: Progress | None = None,
    helpers: Helpers = NO_HELP,
) -> dict[str, Latent]:
    """Latents trained to lower KL(teacher || student).

    Args:
        teacher, student: tokens (B, T) -> logits (B, T, V); left as they were.
        latents: by parameter name of the student; what has none stays as it is.
        text: (n, length) tokens in the order of training.
        threads: of the CPU, where `device` is None.
        device: what runs whole batches.
        labels: share of the target that is the text's next token, the rest being the teacher's
            prediction: what is lowered is (1 - labels) KL + labels times the cross entropy.
        rate: steps per update, all the way; None for one by the number of tokens, down to nothing along
            a cosine.
        at_once: sequences per update; None for `tokens_per_update`.
        price: of a bit, asked at the start and after the shares LOOKS of the updates; None for nothing.
        helpers: processes that take their parts of every batch.

    Raises:
        UsageError: the loss is not finite.
    """
    count = sum(x.z.numel() for x in latents.values())
    at_once = at_once or max(1, tokens_per_update(count) // text.shape[1])
    batches = torch.from_numpy(text.astype(np.int64)).split(at_once)
    updates = len(batches)
    here = {name: x.on(device or "cpu") for name, x in latents.items()}
    adam = {name: Adam(x.z) for name, x in here.items()}
    peak = min(RATE, WALK * min(1.0, 2 * text.size / count) ** 0.25 / sqrt(updates))
    shown = _Shown(updates, 1 if device is None else DEVICE_LOOKS, labels, progress)
    looks = {0, *(round(share * updates) for share in LOOKS)}
    sizes = [x.z.numel() for x in here.values()]
    toll, usual = Toll(price, count), torch.zeros(())
    with torch_threads_restored(), exact_products():
        helpers.ask("train", {"labels": labels}, weights_by_name(student))
        runs = on_threads(teacher, student, batches, labels, threads, helpers) if device is None else (
            on_device(teacher, student, batches, labels, device, helpers)
        )  # fmt: skip
        for done, run in enumerate(runs):
            unit = toll.unit(shown.mean, batches[done].numel())
            if done in looks:
                behind = done / updates if rate is not None else _behind(done / updates)
                ahead = (1 - behind) * updates * (peak / 2 if rate is None else rate)
                toll.look(here, adam, behind, ahead * unit if done else None, EPSILON * usual)
            loss, gradients = run({name: x.weight() for name, x in here.items()})
            shown.see(loss / batches[done].numel())
            now = peak * 0.5 * (1 + cos(pi * done / updates)) if rate is None else rate
            for name, x in here.items():
                gradient = gradients[name].reshape(x.z.shape).mul_(x.step)
                adam[name].see(toll.added(gradient, name, x, unit))
            usual = usual_size([a.power() for a in adam.values()], sizes)
            for name, x in here.items():
                x.move(adam[name].change(now, EPSILON * usual))
    return {name: x.on("cpu") for name, x in here.items()}


def _behind(share: float) -> float:
    """The share of the way, by rates along a cosine, that a share of the updates makes."""
    return share + sin(pi * share) / pi


class _Shown:
    """The loss's moving average for the user, and a check that it is finite."""

    def __init__(self, updates: int, every: int, labels: float, progress: Progress | None) -> None:
        self.updates, self.every, self.progress = updates, every, progress
        self.what = "loss" if labels else "KL"
        self.waiting: list[torch.Tensor] = []
        self.done, self.mean = 0, 0.0

    def see(self, kl: torch.Tensor) -> None:
        """Take in the loss per token of one more update, and look at all every so many."""
        self.waiting.append(kl)
        if len(self.waiting) < self.every and self.done + len(self.waiting) < self.updates:
            return
        for value in torch.stack(self.waiting).tolist():
            if not np.isfinite(value):
                raise UsageError(
                    f"the {self.what} is {value} after {self.done} updates of --refine",
                    "the model overflows on these tokens; build without --refine",
                )
            self.mean = value if self.done == 0 else (1 - SHOWN) * self.mean + SHOWN * value
            self.done += 1
        self.waiting = []
        if self.progress is not None:
            self.progress(self.done, self.updates, f"{self.what} {self.mean:.5f}")
