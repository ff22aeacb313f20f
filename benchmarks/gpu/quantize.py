"""GPTQ of all matrices of the record-shaped model, and the other kernels, against plain torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.gpu.checks import TWO_SIDED_ROWS, hessian
from benchmarks.gpu.measure import Findings, Job, timed
from benchmarks.gpu.models import looks_trained
from golfpack.kernels.gptq import BLOCK, round_feedback_batch
from golfpack.kernels.select import use_kernels
from golfpack.models.golf.family import spec
from golfpack.packer.engine import HostEngine, ToFactor, ToRound
from golfpack.packer.format.steps import log_steps
from golfpack.packer.quantize.gptq import Factor
from golfpack.packer.torch_engine import TorchEngine

# The plain two-sided loop takes minutes: so many columns of each shape are timed, and scaled up.
SAMPLED_COLUMNS = 8


def quantize(job: Job, found: Findings) -> None:
    """All parts."""
    work = list(_roundings(job))
    found.figure("matrices", len(work), "")
    found.figure("weights in them", sum(t.w.size for t in work), "")
    _factoring(job, found, work)
    _rounding(job, found, work)


def _engine(job: Job) -> TorchEngine:
    return TorchEngine(torch.device(job.device))


def _roundings(job: Job) -> Iterator[ToRound]:
    """Every matrix of the model, with steps near 3 bits and factors shared by its shape."""
    rng = np.random.default_rng(0)
    config, factors = job.model, dict[int, Factor]()
    weights = looks_trained(config)

    def factor(size: int) -> Factor:
        if size not in factors:
            todo = [ToFactor(hessian(rng, size), 0.01)]
            factors[size] = next(_engine(job).factors(todo, job.threads))
        return factors[size]

    for t in spec(config).tensors:
        if t.role == "vector":
            continue
        w = weights[t.name].numpy()
        rows, cols = w.shape
        steps = log_steps(0.5 * np.sqrt(np.square(w).mean(1)), np.ones(cols))
        two_sided = t.role != "embed" and rows <= TWO_SIDED_ROWS
        yield ToRound(w, steps, None, factor(cols), factor(rows) if two_sided else None)


@dataclass(frozen=True, eq=False)
class Group:
    """Matrices of one shape on the device; arguments of `round_feedback_batch`."""

    w: torch.Tensor
    row_step: torch.Tensor
    col_step: torch.Tensor
    upper: torch.Tensor
    row_upper: torch.Tensor | None

    def round(self, kernel: bool, *, two_sided: bool) -> torch.Tensor:
        """Codes by the kernel."""
        return round_feedback_batch(
            self.w, self.row_step, self.col_step, self.upper,
            row_upper=self.row_upper if two_sided else None, kernel=kernel,
        )  # fmt: skip

    def plain(self, columns: int) -> Callable[[], torch.Tensor]:
        """The plain twin on the first columns, two-sided where the kernel is."""
        part = slice(0, columns)
        w, upper = self.w[:, :, part].contiguous(), self.upper[:, part, part].contiguous()
        steps = self.row_step, self.col_step[:, part].contiguous()
        return lambda: round_feedback_batch(
            w, *steps, upper, row_upper=self.row_upper, kernel=False
        )


def _groups(job: Job, work: list[ToRound]) -> list[Group]:
    shapes: dict[tuple[int, ...], list[ToRound]] = {}
    for t in work:
        shapes.setdefault(t.w.shape, []).append(t)

    def stack(arrays: list[np.ndarray], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).to(job.device, dtype)

    groups = []
    for alike in shapes.values():
        factors = [t.factor.upper for t in alike if t.factor is not None]
        rows = [t.row_factor.upper for t in alike if t.row_factor is not None]
        cols = [np.ones(t.w.shape[1]) if t.steps.col is None else t.steps.col for t in alike]
        groups.append(
            Group(
                stack([t.w for t in alike]), stack([t.steps.row for t in alike]), stack(cols),
                stack(factors, torch.float32), stack(rows, torch.float32) if rows else None,
            )
        )  # fmt: skip
    return groups


def _rounding(job: Job, found: Findings, work: list[ToRound]) -> None:
    groups, kernel = _groups(job, work), use_kernels(torch.device(job.device))
    two = timed(lambda: [g.round(kernel, two_sided=True) for g in groups], job, 3)
    one = timed(lambda: [g.round(kernel, two_sided=False) for g in groups], job, 3)
    loop = timed(lambda: [column_loop(g, i) for g in groups for i in range(len(g.w))], job, 1)
    found.versus(
        "GPTQ, one-sided, all matrices", one, loop, "column loop in float32, a matrix at a time"
    )
    plain = 0.0
    for g in groups:
        columns = g.w.shape[2]
        sampled = min(SAMPLED_COLUMNS, columns)
        plain += timed(g.plain(sampled), job, 1) * columns / sampled
    found.versus(
        "GPTQ, two-sided, all matrices", two, plain, "plain two-sided loop, batched, from "
        f"{SAMPLED_COLUMNS} columns of each shape",
    )  # fmt: skip
    if not job.smoke:
        found.check("GPTQ of all matrices, two-sided: seconds", two, 2.0)
        found.check(
            "GPTQ: kernel's share of the plain loop's time", max(one / loop, two / plain), 0.2
        )
    engine = timed(lambda: list(_engine(job).codes(work, job.threads)), job, 3)
    host = timed(lambda: list(HostEngine().codes(work, job.threads)), job, 1)
    what = f"numba on {job.threads} threads"
    found.versus("GPTQ, two-sided, with copies to and fro", engine, host, what)


def column_loop(g: Group, index: int) -> torch.Tensor:
    """GPTQ as the records do it: one matrix, float32, column by column within blocks."""
    w = g.w[index].float().clone()
    upper, row = g.upper[index], g.row_step[index].float()
    col = g.col_step[index].float()
    codes = torch.empty_like(w, dtype=torch.int32)
    cols = w.shape[1]
    for start in range(0, cols, BLOCK):
        end = min(start + BLOCK, cols)
        errors = torch.empty_like(w[:, start:end])
        for i in range(start, end):
            step = row * col[i]
            q = (w[:, i] / step).round()
            codes[:, i] = q
            error = (w[:, i] - q * step) / upper[i, i]
            w[:, i:end] -= error[:, None] * upper[i, i:end]
            errors[:, i - start] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    return codes


def _factoring(job: Job, found: Findings, work: list[ToRound]) -> None:
    """Factors of all Hessians and row covariances."""
    rng = np.random.default_rng(1)
    sizes = [n for t in work for n in t.w.shape[:: 1 if t.row_factor is not None else -1]]
    sizes = [n for n in sizes if n <= TWO_SIDED_ROWS]
    made = {n: hessian(rng, n) for n in set(sizes)}
    todo = [ToFactor(made[n], 0.01) for n in sizes]
    on_device = [torch.from_numpy(made[n]).to(job.device, torch.float64) for n in sizes]

    def loop() -> None:
        for m in on_device:
            eye = torch.eye(len(m), dtype=m.dtype, device=m.device)
            lower = torch.linalg.cholesky(m + 0.01 * m.diagonal().mean() * eye)
            torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)

    batched = timed(lambda: list(_engine(job).factors(todo, job.threads)), job, 3)
    what = "Cholesky, inverse, Cholesky, a matrix at a time, without copies"
    found.versus("factors of all matrices, with copies", batched, timed(loop, job, 3), what)
