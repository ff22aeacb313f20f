import pytest
import torch
from torch import nn

from golfpack.train.muon import Muon, orthogonalise

SHAPES = [(24, 24), (48, 16), (16, 48)]


def gaussian(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_orthogonalise_keeps_directions_and_levels_their_sizes(
    shape: tuple[int, int], scale: float
) -> None:
    g = gaussian(shape, 0)
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    levelled = u.T @ orthogonalise(scale * g) @ vt.T
    sizes = levelled.diagonal()[s > 0.1 * s[0]]
    assert (levelled - torch.diag(levelled.diagonal())).abs().max() < 1e-4
    assert sizes.min() > 0.6
    assert sizes.max() < 1.25


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonalise(torch.zeros(4, 8)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_torchs_muon_but_for_its_precision(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(gaussian(shape, 0)) for _ in range(2))
    one = Muon([{"params": [ours], "lr": 0.1}], momentum=0.9, weight_decay=0.5)
    other = torch.optim.Muon(
        [theirs], lr=0.1, momentum=0.9, weight_decay=0.5, adjust_lr_fn="original"
    )
    start = ours.detach().clone()
    for step in range(4):
        ours.grad = theirs.grad = gaussian(shape, step + 1)
        one.step()
        other.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
