"""What the last part of a run does to its weights so that their artifact is good.

Four things, each an option. Errors: passes run on weights with an error like the compiler's, and the
gradient goes to the weights without it. Rounding: passes run on the nearest points of the step field, or
on the nearest path of its trellis (both straight-through). Rate decay: after each update weights shrink
by what lowers the compiler's bits, in proportion to the learning rate, as weight decay is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from golfpack.base.parallel import map_ordered
from golfpack.packer.quantize.viterbi import nearest_points
from golfpack.train.aim import Grid, Look

# (matrix, its grid) of every matrix that is quantized, to what passes run on in its place.
Leave = Callable[[Sequence[tuple[torch.Tensor, Grid]]], Iterable[torch.Tensor]]

# Where a weight's scale is this share of its step, half of what it costs at a fine step is left: the
# bits of a Laplace variable, rounded to whole steps, rise by 1 bit per octave of its scale well above.
HALF = 0.3


@contextmanager
def compiled_weights(model: nn.Module, look: Look, leave: Leave) -> Iterator[None]:
    """The model with weights as a compiler might leave them; as they were afterwards, bit for bit."""
    parameters = dict(model.named_parameters())
    changed = [parameters[name] for name in look.grids]
    with torch.no_grad():
        grids = look.grids.values()
        kept = [
            p.detach().clone().view(len(g.row), -1) for p, g in zip(changed, grids, strict=True)
        ]
        left = leave(list(zip(kept, grids, strict=True)))
        for p, matrix in zip(changed, left, strict=True):
            p.copy_(matrix.view_as(p))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, matrix in zip(changed, kept, strict=True):
                p.copy_(matrix.view_as(p))


def with_errors(share: float, generator: torch.Generator) -> Leave:
    """Weights with a share of the compiler's error, drawn by a generator on their device."""

    def leave(work: Sequence[tuple[torch.Tensor, Grid]]) -> Iterator[torch.Tensor]:
        for matrix, grid in work:
            yield matrix.add(error_like(grid, matrix, generator), alpha=share)

    return leave


def to_points(work: Sequence[tuple[torch.Tensor, Grid]]) -> Iterator[torch.Tensor]:
    """The nearest points of the step field, whole steps."""
    for matrix, grid in work:
        step = grid.row * grid.col
        yield torch.round(matrix / step) * step


def to_paths(work: Sequence[tuple[torch.Tensor, Grid]]) -> Iterator[torch.Tensor]:
    """The nearest points that the compiler's codes with states can stand for; worked out on the host."""
    return map_ordered(_to_path, work, torch.get_num_threads())


def _to_path(work: tuple[torch.Tensor, Grid]) -> torch.Tensor:
    matrix, grid = work
    assert grid.fine is not None
    step = grid.row * grid.col
    order = torch.argsort(-grid.col[0], stable=True)  # as `format.trellis.path_order` has it
    ordered, fine = ((t[:, order].cpu().numpy()) for t in ((matrix / step).float(), grid.fine))
    found = torch.from_numpy(nearest_points(ordered, fine)).to(matrix.device)
    points = torch.empty_like(found)
    points[:, order] = found
    return (points * step).to(matrix.dtype)


def error_like(grid: Grid, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random error (rows, cols) with the covariance of the compiler's own."""
    n = torch.empty(like.shape, device=like.device).normal_(generator=generator)
    n = n * grid.right if len(grid.right) == 1 else n @ grid.right
    n = n * grid.left if grid.left.shape[1] == 1 else grid.left.T @ n
    return n.to(like.dtype)


@torch.no_grad()
def decay_by_rate(
    model: nn.Module, look: Look, optimisers: Sequence[Optimizer], share: float
) -> None:
    """Shrink weights by what lowers the bits of their artifact, in place.

    A weight w among others of the local scale b = mean |w| costs about log2(b / step) bits, and their
    sum's derivative by w is sign(w) / b: so each moves towards 0 by its share of b, those of little rate
    less, and none beyond 0.

    Args:
        optimisers: with the rates of the update.
        share: of the local scale, at a rate of 1.
    """
    parameters = dict(model.named_parameters())
    rates = {
        p: group["lr"] for o in optimisers for group in o.param_groups for p in group["params"]
    }
    for name, grid in look.grids.items():
        p = parameters[name]
        matrix = p.view(len(grid.row), -1)
        size = matrix.abs()
        row, col = size.mean(1, keepdim=True), size.mean(0, keepdim=True)
        mean = row.mean().clamp(min=1e-30)
        scale = row * (col / mean)
        in_steps = (row / grid.row) * (col / (mean * grid.col))
        threshold = scale.mul_(in_steps / (in_steps + HALF)).mul_(share * rates[p])
        p.copy_((matrix.sign() * (size - threshold).clamp_(min=0)).view_as(p))


def seed_of(seed: int, step: int) -> int:
    """Of the errors of a step."""
    mixed = np.random.SeedSequence([seed, step, 1 << 20]).generate_state(2, np.uint32)
    return int(mixed[0]) << 31 ^ int(mixed[1])
