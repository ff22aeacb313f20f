"""Self-distillation: codes trained against the float model itself, at fixed steps.

Rounding looks at one matrix at a time and at second moments of what it meets. What is left of the KL
after it is mostly between matrices, and a gradient sees that. So every code gets a real number beside
it, its latent; the network runs with the nearest integers, and the gradient of KL(float || quantized)
goes to the latents as if they had not been rounded (the straight-through estimator, Bengio et al., arXiv
1308.3432, section 4). No label is needed; a share of the target may be what the text goes on with, for
those who want a lower cross entropy on such text. The gradient leaves the steps as they are. But a code
that only wants a lower KL takes bits for it that are not worth it, so each bit has a price, in nats: its
slope is one more part of the gradient, and the caller steers the file's size by it. `build.in_turn`
trains weights with it that are not rounded yet.

On the CPU every sequence of a batch is one thread's work, the float model's predictions for the next
ones another's; gradients are added in order, and everything else is elementwise. So the result does not
depend on the number of threads. On a device a batch is run as one, and nothing waits for the device but
a look at the loss now and then.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import cos, log, pi, sin, sqrt

import numpy as np
import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.build.helpers import NO_HELP, Helpers, weights_by_name
from golfpack.build.latents import TINY, Latent
from golfpack.calib.stats import torch_threads_restored
from golfpack.errors import UsageError
from golfpack.models.device import exact_products, send

Progress = Callable[[int, int, str], None]
# What a bit is to cost from here on, in USUAL_PRICE. Told: the latents by parameter name, on the CPU;
# the share of the way that is behind them, by rates; and how many bits a unit saves on the rest of it,
# by the gradients; None at the start, where none has been seen.
Price = Callable[[Mapping[str, Latent], float, float | None], float]

# Tokens per update: at equal tokens, more updates at a lower rate win, until what does not grow with the
# tokens, such as the updates themselves, takes the time (docs/LOG.md). The first up to so many weights.
FEW_TOKENS, BATCH_TOKENS, FEW_WEIGHTS = 256, 512, 1_000_000
BETAS = (0.9, 0.99)
# Added to each gradient's size, as a share of the network's: what hardly matters hardly moves. Steps
# are such that all that matters has gradients of one size.
EPSILON = 0.1
# Where the network's is more than so many times the median tensor's, a few gradients rule it.
OUTLIER = 4.0
# The peak rate, in steps per update, at most; and its product with the root of the updates, which is how
# far noise alone moves a latent. With less than half a token per weight there is less to tell a gradient
# from its noise by, and it falls with the fourth root of what there is (docs/LOG.md).
RATE, WALK = 0.005, 0.087
# The price of a bit is told anew after these shares of the updates.
LOOKS = (0.1, 0.25, 0.4, 0.55)
# What a bit is worth, as a share of the loss over the weights: an error falls with 2^(-2 bits).
USUAL_PRICE = 2 * log(2)
# The bits of a latent's code rise with its size but for this near 0, in steps, where they turn.
TURN = 0.25
# The KL shown is a moving average over about so many updates.
SHOWN = 0.1
# On a device the KL is looked at after so many updates.
DEVICE_LOOKS = 20
RAREST = 1 / 64  # mean of codes: what is rarer costs as much


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
    adam = {name: _Adam(x.z) for name, x in here.items()}
    peak = min(RATE, WALK * min(1.0, 2 * text.size / count) ** 0.25 / sqrt(updates))
    shown = _Shown(updates, 1 if device is None else DEVICE_LOOKS, labels, progress)
    looks = {0, *(round(share * updates) for share in LOOKS)}
    sizes = [x.z.numel() for x in here.values()]
    toll, usual = _Toll(price, count), torch.zeros(())
    with torch_threads_restored(), exact_products():
        helpers.ask("train", {"labels": labels}, weights_by_name(student))
        runs = _on_threads(teacher, student, batches, labels, threads, helpers) if device is None else (
            _on_device(teacher, student, batches, labels, device, helpers)
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


# Summed loss of a batch, and its gradient by every weight that is trained.
_Found = tuple[torch.Tensor, dict[str, torch.Tensor]]
# Weights by parameter name -> what a batch makes of them.
_Run = Callable[[Mapping[str, torch.Tensor]], _Found]
# The teacher's log-probabilities (B, T, V), and the probabilities to come near to.
_Target = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def _target(teacher: nn.Module, tokens: torch.Tensor, labels: float) -> _Target:
    """Of tokens (B, T). Behind the last one nobody knows what follows: it has no label."""
    p = teacher(tokens).float().log_softmax(-1)
    wanted = p.exp()
    if labels:
        wanted[:, :-1] *= 1 - labels
        label = torch.full_like(wanted[:, :-1, :1], labels)
        wanted[:, :-1].scatter_add_(-1, tokens[:, 1:, None], label)
    return p, wanted


def _backward(
    student: nn.Module, tokens: torch.Tensor, target: _Target, weights: Mapping[str, torch.Tensor]
) -> _Found:
    """Of tokens (B, T), with these weights in the student."""
    trained = {n: student.get_parameter(n).requires_grad_(True) for n in weights}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
            parameter.grad = None
    logits = student(tokens).float()
    with torch.no_grad():
        p, wanted = target
        q = logits.log_softmax(-1)
        loss = (wanted * (p - q)).sum(dtype=torch.float64)
        gradient = q.exp_().sub_(wanted)
    logits.backward(gradient)
    return loss, {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in trained.items()}


def _on_device(
    teacher: nn.Module,
    student: nn.Module,
    batches: Sequence[torch.Tensor],
    labels: float,
    device: str,
    helpers: Helpers,
) -> Iterator[_Run]:
    """Whole batches, or this process's parts of them."""
    teacher, student = (
        copy.deepcopy(m).requires_grad_(False).to(device) for m in (teacher, student)
    )

    def run(
        batch: torch.Tensor,
        tokens: torch.Tensor,
        target: _Target,
        weights: Mapping[str, torch.Tensor],
    ) -> _Found:
        helpers.ask_gradients(batch, weights)
        if not len(tokens):
            return helpers.summed(*_nothing(weights))
        return helpers.summed(*_backward(student, tokens, target, weights))

    for batch in batches:
        tokens = send(helpers.part(batch), device)
        yield partial(run, batch, tokens, _target(teacher, tokens, labels))


def _on_threads(
    teacher: nn.Module,
    student: nn.Module,
    batches: Sequence[torch.Tensor],
    labels: float,
    threads: int,
    helpers: Helpers,
) -> Iterator[_Run]:
    """Batches sequence by sequence, each on one thread; the teacher is ahead by one per thread."""
    teacher = copy.deepcopy(teacher).requires_grad_(False)
    # Copies that nobody else uses, one for every sequence of a batch.
    students = [copy.deepcopy(student).requires_grad_(False) for _ in batches[0]]

    def taught(tokens: torch.Tensor) -> _Target:
        torch.set_num_threads(1)
        return _target(teacher, tokens, labels)

    def run(
        batch: torch.Tensor,
        rows: Sequence[tuple[nn.Module, torch.Tensor, _Target]],
        weights: Mapping[str, torch.Tensor],
    ) -> _Found:
        def one(row: tuple[nn.Module, torch.Tensor, _Target]) -> _Found:
            torch.set_num_threads(1)
            return _backward(*row, weights)

        helpers.ask_gradients(batch, weights)
        found = map_ordered(one, rows, threads)
        total, sums = next(found, None) or _nothing(weights)
        for loss, gradients in found:
            total += loss
            for name, g in gradients.items():
                sums[name] += g
        return helpers.summed(total, sums)

    parts = [helpers.part(batch).split(1) if len(helpers.part(batch)) else () for batch in batches]
    targets = map_ordered(taught, (row for part in parts for row in part), threads)
    for batch, part in zip(batches, parts, strict=True):
        rows = [(s, row, next(targets)) for s, row in zip(students, part, strict=False)]
        yield partial(run, batch, rows)


def _nothing(weights: Mapping[str, torch.Tensor]) -> _Found:
    """Of no tokens."""
    device = next(iter(weights.values())).device
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return zero, {name: torch.zeros_like(w) for name, w in weights.items()}


class Gradients:
    """What a process that helps with training does with its part of every batch."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        labels: float,
        threads: int,
        device: str | None,
    ) -> None:
        """`device`: what runs whole parts; None: `threads` of the CPU, a sequence each."""
        self.teacher, self.labels, self.threads, self.device = teacher, labels, threads, device
        self.teacher.requires_grad_(False).to(device or "cpu")
        self.student = student.requires_grad_(False).to(device or "cpu")

    def of(self, rows: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> _Found:
        """Summed loss of sequences (n, T), n >= 0, and its gradient by every weight."""
        here = {name: w.to(self.device or "cpu") for name, w in weights.items()}
        if not len(rows):
            return _nothing(here)
        if self.device is not None:
            tokens = send(rows, self.device)
            with exact_products():
                return _backward(
                    self.student, tokens, _target(self.teacher, tokens, self.labels), here
                )
        students = [copy.deepcopy(self.student) for _ in rows]

        def one(item: tuple[nn.Module, torch.Tensor]) -> _Found:
            torch.set_num_threads(1)
            target = _target(self.teacher, item[1], self.labels)
            return _backward(*item, target, here)

        with torch_threads_restored():
            pairs = list(zip(students, rows.split(1), strict=True))
            (total, sums), *others = map_ordered(one, pairs, self.threads)
        for loss, gradients in others:
            total += loss
            for name, g in gradients.items():
                sums[name] += g
        return total, sums


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


class _Toll:
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
        adam: Mapping[str, "_Adam"],
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
            epsilon: see `_Adam.change`.
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


class _Adam:
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
