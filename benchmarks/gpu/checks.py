"""Every kernel, and what else runs on the device, against float64 or against the CPU's own result."""

from importlib.util import find_spec

import numpy as np
import torch

from benchmarks.gpu.measure import TINY, Findings, Job
from benchmarks.gpu.models import looks_trained, some_tokens
from golfpack.calib.device import calibrate_on
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.kernels.select import interpreted, triton_available
from golfpack.models import FAMILIES
from golfpack.models.golf.family import spec
from golfpack.packer.engine import HostEngine, ToFactor, ToRound
from golfpack.packer.format.steps import log_steps
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.gptq import factorize
from golfpack.packer.torch_engine import TorchEngine

SMALL = ((1, 1), (1, 7), (5, 1), (17, 33))
# Of the record-shaped model; the embedding has no covariance of its rows.
LARGE = ((40, 70), (512, 512), (256, 512), (2048, 512), (512, 2048), (8192, 512))
TWO_SIDED_ROWS = 4096


def hessian(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) float32 second moment of correlated inputs of unequal size."""
    mixing = rng.standard_normal((size, size)) / np.sqrt(size) + 0.3 * np.eye(size)
    x = rng.standard_normal((2 * size + 8, size)) @ mixing * np.exp(rng.standard_normal(size) / 2)
    return (x.T @ x / len(x)).astype(np.float32)


def random_rounding(rng: np.random.Generator, rows: int, cols: int, two_sided: bool) -> ToRound:
    """A matrix with steps of about a third of its weights' size."""
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    steps = log_steps(
        0.3 * np.exp(0.3 * rng.standard_normal(rows)), np.exp(0.3 * rng.standard_normal(cols))
    )
    row_factor = factorize(hessian(rng, rows), damp=0.1) if two_sided else None
    return ToRound(w, steps, None, factorize(hessian(rng, cols), damp=0.01), row_factor)


def correctness(job: Job, found: Findings) -> None:
    """All checks; times are other sections'."""
    _feedback(job, found)
    _factors(job, found)
    _calibration(job, found)


def engine_of(job: Job) -> TorchEngine:
    """Triton's kernels wherever they run: on CUDA, or interpreted."""
    return TorchEngine(torch.device(job.device), kernel=kernels_here(job))


def kernels_here(job: Job) -> bool:
    """Whether Triton's kernels can run: on CUDA, or in the interpreter."""
    if job.device == "cuda":
        return triton_available()[0]
    return interpreted() and find_spec("triton") is not None


def _feedback(job: Job, found: Findings) -> None:
    """The codes' weighted error against that of numba's float64, and how many codes differ."""
    rng = np.random.default_rng(0)
    found.figure("feedback kernel in use", float(bool(engine_of(job).kernel)), "1 = triton")
    for rows, cols in SMALL if job.smoke else SMALL + LARGE:
        for two_sided in (False, True):
            if two_sided and rows > TWO_SIDED_ROWS:
                continue
            work = [random_rounding(rng, rows, cols, two_sided) for _ in range(2)]
            ours = list(engine_of(job).codes(work, job.threads))
            host = list(HostEngine().codes(work, job.threads))
            name = f"feedback {rows}x{cols}{' two-sided' if two_sided else ''}"
            costs = [
                [_cost(t, codes) for t, codes in zip(work, c, strict=True)] for c in (ours, host)
            ]
            found.check(f"{name}: weighted error over numba's", sum(costs[0]) / sum(costs[1]), 1.01)
            off = np.mean([np.mean(a != b) for a, b in zip(ours, host, strict=True)])
            # A tie that falls the other way moves the codes behind it; float64 has next to none.
            found.check(f"{name}: share of other codes", float(off), 0.02)


def _cost(t: ToRound, codes: np.ndarray) -> float:
    """tr(B e H e^T) by the factors: H^-1 = U^T U, so e H e^T = |e U^-1|^2; the same for rows."""
    assert t.factor is not None
    e = QTensor(codes, t.steps).dequantize().astype(np.float64) - t.w
    scaled = np.linalg.solve(t.factor.upper.astype(np.float64).T, e.T).T
    if t.row_factor is not None:
        scaled = np.linalg.solve(t.row_factor.upper.astype(np.float64).T, scaled)
    return float(np.square(scaled).sum())


def _factors(job: Job, found: Findings) -> None:
    rng = np.random.default_rng(1)
    for size in (1, 9) if job.smoke else (1, 9, 512, 2048):
        work = [ToFactor(hessian(rng, size), 0.01) for _ in range(2)]
        pairs = zip(engine_of(job).factors(work, 1), HostEngine().factors(work, 1), strict=True)
        off = max(float(np.abs(a.upper - b.upper).max() / np.abs(b.upper).max()) for a, b in pairs)
        found.check(f"factor {size}: largest difference", off, 1e-5)


def _calibration(job: Job, found: Findings) -> None:
    config = {**TINY, "num_layers": 2}
    of, weights = spec(config), {n: w.numpy() for n, w in looks_trained(config).items()}
    model = FAMILIES["golf"].module(of.config, weights)
    rows = some_tokens(job, config["vocab_size"], 16 * 32).astype(np.int64).reshape(16, 32)
    tokens = CalibTokens(rows, "random")
    options = {"gradients": True, "seed": 0, "threads": job.threads}
    host = calibrate(model, of, tokens, **options)
    ours = calibrate_on(job.device, model, of, tokens, **options)
    for quantity in ("hessian", "row_weight", "output_cov"):
        off = [
            float(np.linalg.norm(getattr(a, quantity) - b) / np.linalg.norm(b))
            for name in host.uses
            for a, other in zip(ours.uses[name], host.uses[name], strict=True)
            if (b := getattr(other, quantity)) is not None
        ]
        # One label of 512 may be drawn otherwise where rounding decides; the rest is rounding.
        found.check(f"calibration: {quantity}, largest relative difference", max(off), 0.02)
