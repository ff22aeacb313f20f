"""Loss and gradients of a network that is to come near another's predictions, by batches of text.

On the CPU every sequence of a batch is one thread's work, the float model's predictions for the next
ones another's; gradients are added in order. So what comes out does not depend on the number of
threads. On a device a batch is run as one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.build.helpers import Helpers
from golfpack.calib.stats import torch_threads_restored
from golfpack.models.device import exact_products, send

# Summed loss of a batch, and its gradient by every weight that is trained.
Found = tuple[torch.Tensor, dict[str, torch.Tensor]]
# Weights by parameter name -> what a batch makes of them.
Run = Callable[[Mapping[str, torch.Tensor]], Found]
# The teacher's log-probabilities (B, T, V), and the probabilities to come near to.
Target = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def target_of(teacher: nn.Module, tokens: torch.Tensor, labels: float) -> Target:
    """Of tokens (B, T). Behind the last one nobody knows what follows: it has no label."""
    p = teacher(tokens).float().log_softmax(-1)
    wanted = p.exp()
    if labels:
        wanted[:, :-1] *= 1 - labels
        label = torch.full_like(wanted[:, :-1, :1], labels)
        wanted[:, :-1].scatter_add_(-1, tokens[:, 1:, None], label)
    return p, wanted


def backward(
    student: nn.Module, tokens: torch.Tensor, target: Target, weights: Mapping[str, torch.Tensor]
) -> Found:
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


def on_device(
    teacher: nn.Module,
    student: nn.Module,
    batches: Sequence[torch.Tensor],
    labels: float,
    device: str,
    helpers: Helpers,
) -> Iterator[Run]:
    """Whole batches, or this process's parts of them."""
    teacher, student = (
        copy.deepcopy(m).requires_grad_(False).to(device) for m in (teacher, student)
    )

    def run(
        batch: torch.Tensor,
        tokens: torch.Tensor,
        target: Target,
        weights: Mapping[str, torch.Tensor],
    ) -> Found:
        helpers.ask_gradients(batch, weights)
        if not len(tokens):
            return helpers.summed(*_nothing(weights))
        return helpers.summed(*backward(student, tokens, target, weights))

    for batch in batches:
        tokens = send(helpers.part(batch), device)
        yield partial(run, batch, tokens, target_of(teacher, tokens, labels))


def on_threads(
    teacher: nn.Module,
    student: nn.Module,
    batches: Sequence[torch.Tensor],
    labels: float,
    threads: int,
    helpers: Helpers,
) -> Iterator[Run]:
    """Batches sequence by sequence, each on one thread; the teacher is ahead by one per thread."""
    teacher = copy.deepcopy(teacher).requires_grad_(False)
    # Copies that nobody else uses, one for every sequence of a batch.
    students = [copy.deepcopy(student).requires_grad_(False) for _ in batches[0]]

    def taught(tokens: torch.Tensor) -> Target:
        torch.set_num_threads(1)
        return target_of(teacher, tokens, labels)

    def run(
        batch: torch.Tensor,
        rows: Sequence[tuple[nn.Module, torch.Tensor, Target]],
        weights: Mapping[str, torch.Tensor],
    ) -> Found:
        def one(row: tuple[nn.Module, torch.Tensor, Target]) -> Found:
            torch.set_num_threads(1)
            return backward(*row, weights)

        helpers.ask_gradients(batch, weights)
        return helpers.summed(*_summed(map_ordered(one, rows, threads), weights))

    parts = [helpers.part(batch).split(1) if len(helpers.part(batch)) else () for batch in batches]
    targets = map_ordered(taught, (row for part in parts for row in part), threads)
    for batch, part in zip(batches, parts, strict=True):
        rows = [(s, row, next(targets)) for s, row in zip(students, part, strict=False)]
        yield partial(run, batch, rows)


def _summed(found: Iterator[Found], weights: Mapping[str, torch.Tensor]) -> Found:
    """In order: sums of floats depend on it."""
    total, sums = next(found, None) or _nothing(weights)
    for loss, gradients in found:
        total += loss
        for name, g in gradients.items():
            sums[name] += g
    return total, sums


def _nothing(weights: Mapping[str, torch.Tensor]) -> Found:
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

    def of(self, rows: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> Found:
        """Summed loss of sequences (n, T), n >= 0, and its gradient by every weight."""
        here = {name: w.to(self.device or "cpu") for name, w in weights.items()}
        if not len(rows):
            return _nothing(here)
        if self.device is not None:
            tokens = send(rows, self.device)
            with exact_products():
                return backward(
                    self.student, tokens, target_of(self.teacher, tokens, self.labels), here
                )
        students = [copy.deepcopy(self.student) for _ in rows]

        def one(item: tuple[nn.Module, torch.Tensor]) -> Found:
            torch.set_num_threads(1)
            target = target_of(self.teacher, item[1], self.labels)
            return backward(*item, target, here)

        with torch_threads_restored():
            pairs = list(zip(students, rows.split(1), strict=True))
            return _summed(map_ordered(one, pairs, self.threads), here)
