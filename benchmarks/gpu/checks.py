"""Every kernel, and what else runs on the device, against float64 or against the CPU's own result."""

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu.measure import TINY, Findings, Job
from benchmarks.gpu.models import looks_trained, some_tokens
from golfpack.calib.device import calibrate_on
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.kernels.cross_entropy import head_cross_entropy
from golfpack.kernels.dequantize import dequantize
from golfpack.kernels.select import (
    interpreted,
    triton_available,
)
from golfpack.models import FAMILIES
from golfpack.models.golf.family import spec
from golfpack.packer.devicecoding import device_decoder
from golfpack.packer.engine import (
    HostEngine,
    ToFactor,
    ToRound,
)
from golfpack.packer.format.rans.codes import (
    decode_codes,
    encode_codes,
)
from golfpack.packer.format.rans.context_model import CodeMatrix
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
    _dequantize(job, found)
    _cross_entropy(job, found)
    _decoding(job, found)
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


def _dequantize(job: Job, found: Findings) -> None:
    rng = np.random.default_rng(2)
    for rows, cols in SMALL if job.smoke else SMALL + LARGE:
        codes = rng.integers(-20, 21, (rows, cols)).astype(np.int32)
        steps = log_steps(np.exp(rng.standard_normal(rows)), np.exp(rng.standard_normal(cols)))
        wanted = torch.from_numpy(QTensor(codes, steps).dequantize())
        assert steps.col is not None
        tensors = [torch.from_numpy(a).to(job.device) for a in (codes, steps.row, steps.col)]
        kernel = kernels_here(job)
        # The interpreter cuts bfloat16 off where a GPU rounds.
        for dtype in (torch.float32,) if job.smoke else (torch.float32, torch.bfloat16):
            got = dequantize(*tensors, dtype=dtype, kernel=kernel).cpu()
            off = int((got != wanted.to(dtype)).sum())
            found.check(
                f"dequantize {rows}x{cols} {dtype}: other bits".replace("torch.", ""), off, 0
            )


def _cross_entropy(job: Job, found: Findings) -> None:
    tokens, width, vocab = (64, 24, 50) if job.smoke else (4096, 512, 8192)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) / width**0.25
    targets = torch.randint(vocab, (tokens,), generator=generator)
    wanted, grads = _reference(hidden.double(), weight.double(), targets)
    x, w = (t.to(job.device).requires_grad_() for t in (hidden, weight))
    y = targets.to(job.device)
    nll = head_cross_entropy(x, w, y, cap=capped, chunk=max(1, tokens // 3))
    found.check("cross entropy: largest error, nats", _off(nll, wanted), 1e-4)
    nll.mean().backward()
    for name, got, true in (("hidden", x.grad, grads[0]), ("weight", w.grad, grads[1])):
        assert got is not None
        scale = float(true.abs().max())
        found.check(f"cross entropy: gradient of {name}, relative", _off(got, true) / scale, 1e-4)
    if job.device == "cuda":
        low_x, low_w = hidden.bfloat16(), weight.bfloat16()
        wanted, _ = _reference(low_x.double(), low_w.double(), targets)
        with torch.no_grad():
            nll = head_cross_entropy(low_x.cuda(), low_w.cuda(), y, cap=capped)
        found.check("cross entropy, bf16 in: largest error, nats", _off(nll, wanted), 1e-3)


def capped(z: torch.Tensor) -> torch.Tensor:
    """The challenge's cap on logits."""
    return 30.0 * torch.tanh(z / 30.0)


def _reference(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    x, w = hidden.requires_grad_(), weight.requires_grad_()
    nll = F.cross_entropy(capped(x @ w.T), targets, reduction="none")
    return nll.detach(), torch.autograd.grad(nll.mean(), (x, w))


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().cpu().double() - wanted).abs().max())


def _decoding(job: Job, found: Findings) -> None:
    """RANS on the device gives back what was encoded."""
    rng = np.random.default_rng(4)
    shapes = ((3, 5), (12, 9)) if job.smoke else ((3, 5), (70, 40), (8192, 512), (2048, 512))
    for shape in shapes:
        spread = np.exp(rng.standard_normal((shape[0], 1)) + 1)
        codes = np.rint(spread * rng.standard_normal(shape)).astype(np.int32)
        codes.flat[:: max(1, codes.size // 5)] += 100_000  # escapes
        matrix = CodeMatrix(shape, np.zeros(shape[0], np.int32), np.zeros(shape[1], np.int32))
        payload = encode_codes([codes], [matrix])
        decoder = device_decoder(torch.device(job.device), kernel=kernels_here(job))
        off = int((decode_codes(payload, [matrix], decoder)[0] != codes).sum())
        found.check(f"rANS decoder {shape[0]}x{shape[1]}: other codes", off, 0)


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
