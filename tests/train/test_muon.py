import threading
from typing import Any

import pytest
import torch
from torch import nn

from golfpack.models.ranks import Group
from golfpack.train import muon
from golfpack.train.muon import Muon, orthogonalise, shared_out

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


class Meeting:
    """Ranks that are threads: sums are those of the tensors that all of them bring."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.brought: dict[int, torch.Tensor] = {}

    def rank(self, number: int, size: int) -> Group:
        meeting = self

        class Rank(Group):
            def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
                meeting.brought[self.rank] = tensor
                meeting.barrier.wait(30)
                total = torch.stack([meeting.brought[r] for r in range(self.size)]).sum(0)
                meeting.barrier.wait(30)
                return total

        return Rank(number, size)


def steps(ranks: Group, done: dict[int, list[torch.Tensor]], counted: list[int]) -> None:
    parameters = [nn.Parameter(gaussian(shape, i)) for i, shape in enumerate([*SHAPES, (8, 8)])]
    groups = [{"params": parameters, "lr": 0.1}]
    optimiser = Muon(groups, momentum=0.9, weight_decay=0.5, ranks=ranks)
    for step in range(3):
        for i, p in enumerate(parameters):
            p.grad = gaussian(tuple(p.shape), 10 * step + i)  # pyright: ignore
        optimiser.step()
    done[ranks.rank] = [p.detach() for p in parameters]
    counted.append(len(optimiser.state))


@pytest.mark.parametrize("size", [2, 3, 6])
def test_ranks_that_share_the_matrices_get_what_one_gets(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, on every rank, each matrix orthogonalised once."""
    alone: dict[int, list[torch.Tensor]] = {}
    steps(Group(), alone, [])
    calls: list[tuple[int, ...]] = []

    def counting(matrix: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(matrix.shape))
        return orthogonalise(matrix)

    monkeypatch.setattr(muon, "orthogonalise", counting)
    meeting, done, counted = Meeting(size), dict[int, list[torch.Tensor]](), list[int]()
    threads = [
        threading.Thread(target=steps, args=(meeting.rank(r, size), done, counted))
        for r in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == size
    for found in done.values():
        assert all(torch.equal(a, b) for a, b in zip(found, alone[0], strict=True))
    assert sorted(calls) == sorted([*SHAPES, (8, 8)] * 3)
    assert counted == [4] * size  # momentum of every matrix is everywhere, for whoever saves it


def test_matrices_are_shared_out_evenly() -> None:
    shapes: list[Any] = [(8, 8), (64, 64), (64, 64), (32, 64), (8, 64)]
    owners = shared_out(shapes, 2)
    assert owners[1] != owners[2]
    assert set(shared_out(shapes, 9)) == set(range(5))
    assert shared_out(shapes, 1) == [0] * 5
