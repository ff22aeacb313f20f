"""Who does the heavy arithmetic of a build: factoring Hessians, and rounding.

Passes hand over all their matrices at once and get the results back in order, so that an engine may
batch them as it likes. `HostEngine`, the default, is numpy, scipy and numba, a matrix a thread or more.
`torch_engine.TorchEngine` takes matrices of one shape together, on any torch device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from golfpack.base.parallel import map_ordered
from golfpack.packer.format.steps import StepField
from golfpack.packer.format.tensors import States
from golfpack.packer.quantize.gptq import Factor, factorize, round_feedback, round_nearest
from golfpack.packer.quantize.listsearch import scales_of


@dataclass(frozen=True, eq=False)
class ToFactor:
    """A positive semi-definite matrix to factor; arguments as of `gptq.factorize`."""

    matrix: np.ndarray
    damp: float
    order: np.ndarray | None = None
    own_damp: float = 0.0

    def run(self) -> Factor:
        """The factor, worked out here."""
        return factorize(self.matrix, damp=self.damp, own_damp=self.own_damp, order=self.order)


@dataclass(frozen=True, eq=False)
class ToRound:
    """A matrix to round; arguments as of `gptq.round_feedback`, to nearest without a factor."""

    w: np.ndarray
    steps: StepField
    limit: int | None
    factor: Factor | None = None
    row_factor: Factor | None = None
    rate_weight: float = 0.0
    survivors: int = 1
    trellis: bool = False

    @cached_property
    def states(self) -> States | None:
        """What its codes' states depend on, where they have some."""
        return States(scales_of(self.w, self.steps)) if self.trellis and self.w.size else None

    def run(self, threads: int = 1) -> np.ndarray:
        """Codes (rows, cols) int32, worked out here."""
        if self.factor is None:
            return round_nearest(self.w, self.steps, self.limit)
        return round_feedback(
            self.w, self.steps, self.factor, self.limit, self.row_factor, self.rate_weight,
            self.survivors, self.states, threads,
        )  # fmt: skip


class Engine(Protocol):
    """What passes need of one."""

    def factors(self, work: Sequence[ToFactor], threads: int) -> Iterator[Factor]:
        """The factor of every matrix, in order. Raises LinAlgError as `gptq.factorize`."""
        ...

    def codes(self, work: Sequence[ToRound], threads: int) -> Iterator[np.ndarray]:
        """Codes (rows, cols) int32 of every matrix, in order."""
        ...


class HostEngine:
    """numpy, scipy and numba, a matrix a thread, or several where a matrix is much of all the work.

    The same bits whatever the number of threads.
    """

    def factors(self, work: Sequence[ToFactor], threads: int) -> Iterator[Factor]:
        """See `Engine`."""
        return map_ordered(ToFactor.run, work, threads)

    def codes(self, work: Sequence[ToRound], threads: int) -> Iterator[np.ndarray]:
        """See `Engine`."""
        weights = sum(t.w.size for t in work)

        def run(t: ToRound) -> np.ndarray:
            # A thread left alone with much of all the work would end last. Shares are rounded up.
            return t.run(max(1, -(-threads * t.w.size // max(weights, 1))))

        return map_ordered(run, work, threads)
