"""Lion against the values of its paper's algorithm, worked out by hand."""

import pytest
import torch

from golfpack.train.lion import Lion

GRADIENTS = (1.0, 1.0, -0.05, -0.2, -0.2, 0.3)
# Moving the momentum twice a step, as some programs do, parts from these at the fourth.
EXPECTED = (0.89, 0.7811, 0.673289, 0.766556, 0.858891, 0.750302)


def test_the_canonical_update() -> None:
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    lion = Lion([{"params": [p], "lr": 0.1, "weight_decay": 0.1}], (0.9, 0.99))
    found = []
    for gradient in GRADIENTS:
        p.grad = torch.full_like(p, gradient)
        lion.step()
        found.append(p.item())
    assert found == pytest.approx(EXPECTED, abs=1e-6)


def test_its_state_has_the_weights_type() -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    lion = Lion([{"params": [p], "lr": 0.1}], (0.9, 0.99))
    lion.step()
    assert lion.state[p]["momentum"].dtype == torch.bfloat16
