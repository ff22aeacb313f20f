"""Batched rounding, twin and kernel, gives the codes of the compiled CPU loop."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from golfpack.kernels import gptq as feedback
from golfpack.kernels.gptq import round_feedback_batch
from golfpack.packer.format.steps import StepField, f16_steps, log_steps
from golfpack.packer.quantize.gptq import Factor, factorize, precisions, round_feedback


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Several tiles at sizes that the interpreter can manage."""
    if "kernel" in request.fixturenames and request.getfixturevalue("kernel"):
        from golfpack.kernels import gptq_triton as feedback_triton

        monkeypatch.setattr(feedback_triton, "TILE", 16)


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    x = rng.standard_normal((4 * size, size)) @ (
        rng.standard_normal((size, size)) / np.sqrt(size) + 0.3 * np.eye(size)
    )
    return (x.T @ x / len(x)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """Matrices of one shape with everything that rounding them takes."""

    w: list[np.ndarray]
    steps: list[StepField]
    factors: list[Factor]
    row_factors: list[Factor] | None

    @classmethod
    def make(cls, batch: int, rows: int, cols: int, *, two_sided: bool, group: int | None = None):
        rng = np.random.default_rng([batch, rows, cols])
        w = [rng.standard_normal((rows, cols)).astype(np.float32) for _ in range(batch)]
        steps: list[StepField] = []
        for _ in range(batch):
            row, col = 0.3 * np.exp(rng.standard_normal((2, rows, 1)) / 2)
            if group is None:
                col = np.exp(rng.standard_normal(cols) / 2)
                steps.append(log_steps(row[:, 0], col))
            else:
                groups = -(-cols // group)
                steps.append(f16_steps(row * rng.uniform(0.5, 1.5, (rows, groups)), group))
        factors = [factorize(covariance(rng, cols), damp=0.01) for _ in w]
        row_factors = [factorize(covariance(rng, rows), damp=0.1) for _ in w]
        return cls(w, steps, factors, row_factors if two_sided else None)

    def expected(self, limit: int | None = None, rate_weight: float = 0.0) -> np.ndarray:
        row_factors = self.row_factors or [None] * len(self.w)
        parts = zip(self.w, self.steps, self.factors, row_factors, strict=True)
        return np.stack([round_feedback(*p[:3], limit, p[3], rate_weight) for p in parts])

    def codes(
        self,
        kernel: bool,
        limit: int | None = None,
        rate_weight: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> np.ndarray:
        def stack(parts: list[Any], to: torch.dtype = dtype) -> torch.Tensor:
            return torch.from_numpy(np.stack(parts)).to(to)

        group, cols = self.steps[0].group, self.w[0].shape[1]
        weights = [precisions(w, s) for w, s in zip(self.w, self.steps, strict=True)]
        found = round_feedback_batch(
            stack(self.w),
            stack([s.row for s in self.steps]),
            None if self.steps[0].col is None else stack([s.col for s in self.steps]),
            stack([f.upper for f in self.factors], torch.float32),
            limit,
            self.row_factors and stack([f.upper for f in self.row_factors], torch.float32),
            rate_weight,
            stack([p[0] for p in weights]),
            stack([p[1] for p in weights]),
            group_of=None if group is None else torch.arange(cols) // group,
            kernel=kernel,
        )
        assert found.dtype == torch.int32
        return found.numpy()

    def cost(self, codes: np.ndarray) -> float:
        """Sum over matrices of e H e^T, H from its factor."""
        total = 0.0
        for c, w, s, f in zip(codes, self.w, self.steps, self.factors, strict=True):
            error = w - c * s.row[:, None].astype(np.float64) * s.col
            total += np.square(np.linalg.solve(f.upper.astype(np.float64).T, error.T)).sum()
        return total


@pytest.mark.parametrize(
    ("shape", "two_sided", "limit", "rate_weight", "group"),
    [
        ((1, 1, 1), True, None, 0.0, None),
        ((1, 1, 37), True, None, 0.1, None),  # one row
        ((1, 35, 1), True, 3, 0.0, None),  # one column
        ((1, 18, 35), True, None, 0.1, None),  # tiles in both directions, none of them full
        ((2, 18, 35), False, 3, 0.1, None),
        ((2, 3, 19), True, 7, 0.0, 8),  # groups of columns
    ],
)
def test_codes_are_those_of_the_cpu(kernel, shape, two_sided, limit, rate_weight, group):
    case = Case.make(*shape, two_sided=two_sided, group=group)
    codes = case.codes(kernel, limit, rate_weight)
    np.testing.assert_array_equal(codes, case.expected(limit, rate_weight))
    assert limit is None or np.abs(codes).max() <= limit


@pytest.mark.parametrize("two_sided", [False, True])
def test_more_columns_than_the_twin_takes_at_once(two_sided):
    case = Case.make(2, 5, 2 * feedback.BLOCK + 37, two_sided=two_sided)
    np.testing.assert_array_equal(case.codes(False), case.expected())


def test_zero_rows_and_columns(kernel):
    case = Case.make(2, 5, 20, two_sided=True)
    for w in case.w:
        w[1], w[:, 3], w[:, 17] = 0, 0, 0
    np.testing.assert_array_equal(case.codes(kernel), case.expected())
    for w in case.w:
        w[:] = 0
    assert not case.codes(kernel).any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_to_round(kernel, shape):
    batch, rows, cols = shape
    w, upper = torch.zeros(shape), torch.zeros((batch, cols, cols))
    row_upper = torch.zeros((batch, rows, rows))
    codes = round_feedback_batch(
        w, torch.ones((batch, rows)), None, upper, None, row_upper, kernel=kernel
    )
    assert codes.shape == shape


def test_ties_go_to_even_and_the_rate_pulls_towards_zero(kernel):
    steps = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    targets = torch.tensor([[-3.5, -2.5, -0.5, 0.5, 1.5, 2.75, 1e300, -1e300]], dtype=torch.float64)
    w = steps[:, :, None] * targets[:, None, :]
    upper = torch.eye(8)[None]
    most = 2**31 - 1
    even = [-4, -2, 0, 0, 2, 3, most, -most]
    codes = round_feedback_batch(w, steps, None, upper, kernel=kernel)
    assert codes.tolist() == [[even, even]]
    # At 2.75, bits(3) - bits(2) = 5 / 2 log2(e) = 3.6: from lambda 0.07 on 2 is the better code.
    # The second row's rate is zero: it rounds as if there were none.
    rates = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    codes = round_feedback_batch(
        w, steps, None, upper, None, None, 0.07, rates, torch.ones((1, 8)).double(), kernel=kernel
    )
    assert codes.tolist() == [[[-3, -2, 0, 0, 1, 2, most, -most], even]]


@pytest.mark.slow
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("kernel", ["kernel"], indirect=True)
def test_tiles_as_large_as_a_gpu_gets_them(kernel, monkeypatch, two_sided):
    from golfpack.kernels import gptq_triton as feedback_triton

    monkeypatch.setattr(feedback_triton, "TILE", 32)
    case = Case.make(2, 40, 70, two_sided=two_sided)
    np.testing.assert_array_equal(case.codes(kernel, None, 0.05), case.expected(None, 0.05))


def test_float32_loses_next_to_nothing(kernel):
    case = Case.make(1, 18, 20, two_sided=False)
    single = case.cost(case.codes(kernel, dtype=torch.float32))
    assert single == pytest.approx(case.cost(case.expected()), rel=0.01)
