"""One pass over calibration tokens: what every weight's inputs and output gradients look like.

Hessians are E[x x^T] of a linear layer's inputs. With gradients, labels are sampled from the model's
own distribution (the true Fisher, not the empirical one: Kunstner et al., arXiv 1905.12558) and the
squared output gradients weigh the rows; see `packer.ir.Use` for the exact definitions.

Batches are independent: each is one thread's work. Within a batch, sequence after sequence, products
and sums are float32; the sums over batches are float64 and taken in batch order. So the result does
not depend on the number of threads.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.calib.sources import CalibTokens
from golfpack.errors import UsageError
from golfpack.packer.ir import CalibStats, Hook, ModelSpec, Use
from golfpack.packer.parallel import map_ordered

Progress = Callable[[int, int, str], None]
Key = tuple[str, str]  # (module of the hook, quantity)

# Output covariances are only kept up to this many rows: a head's would dwarf the model.
MAX_COV_ROWS = 4096
# Tokens per batch. Adding a batch up costs as much as the statistics are large, so batches are long;
# the network runs on one sequence at a time, so they need no memory for it.
BATCH_TOKENS = 4096

_CHECK = "the model overflows on these tokens; check its config and its weights"


def calibrate(
    model: nn.Module,
    spec: ModelSpec,
    tokens: CalibTokens,
    *,
    gradients: bool,
    seed: int,
    threads: int,
    progress: Progress | None = None,
) -> CalibStats:
    """Measure `CalibStats` of a model.

    Args:
        model: built from `spec`, float32 on CPU; left as it was.
        tokens: sequences (n, length).
        gradients: also measure Fisher row weights, gradient covariances and vector Fishers.
        seed: of the sampled labels.
        threads: batches in flight; changes nothing but the time.

    Raises:
        UsageError: the statistics are not finite.
    """
    per_batch = max(1, BATCH_TOKENS // tokens.sequences.shape[1])
    batches = [
        tokens.sequences[i : i + per_batch] for i in range(0, len(tokens.sequences), per_batch)
    ]
    local = threading.local()

    def measure(item: tuple[int, np.ndarray]) -> dict[Key, np.ndarray]:
        if not hasattr(local, "collector"):
            torch.set_num_threads(1)
            local.collector = _Collector(copy.deepcopy(model), spec, gradients)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + item[0])
        return local.collector.measure(torch.from_numpy(item[1]), generator)

    sums: dict[Key, np.ndarray] = {}
    with torch_threads_restored():
        for done, found in enumerate(map_ordered(measure, enumerate(batches), threads), 1):
            for key, value in found.items():
                if key not in sums:
                    sums[key] = np.zeros(value.shape)
                sums[key] += value
            found.clear()
            if progress is not None:
                progress(
                    done, len(batches), f"{done * per_batch * tokens.sequences.shape[1]:,} tokens"
                )
    return _finish(spec, sums, tokens, gradients)


@contextmanager
def torch_threads_restored() -> Iterator[None]:
    """Run with one torch thread, and give the caller's setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Collector:
    """A private copy of the model with hooks; sums of one batch at a time."""

    model: nn.Module
    spec: ModelSpec
    gradients: bool
    sums: dict[Key, np.ndarray] = field(default_factory=dict)
    probs: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    # Query, key and value projections read one and the same tensor: square it once.
    last: tuple[torch.Tensor, np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        self.parameters = dict(self.model.named_parameters())
        self.heads = {
            h.module
            for t in self.spec.tensors
            for h in t.hooks
            if t.role in ("embed", "head") and h.kind == "linear"
        }
        if self.gradients:
            for t in self.spec.tensors:
                if not t.hooks:
                    self.parameters[t.name].requires_grad_(True)
        for t in self.spec.tensors:
            for hook in t.hooks:
                self._attach(hook, self.model.get_submodule(hook.module))

    def _attach(self, hook: Hook, module: nn.Module) -> None:
        if hook.kind == "linear":
            module.register_forward_hook(_hook(lambda x, out: self._linear(hook, x, out)))
        elif self.gradients:
            module.register_forward_hook(_hook(lambda x, out: self._embedding(hook, x, out)))

    def measure(self, batch: torch.Tensor, generator: torch.Generator) -> dict[Key, np.ndarray]:
        """Sums over the sequences of a batch (n, length), by module or tensor and by quantity."""
        self.sums = {}
        for sequence in batch.split(1):
            self.last = None
            if self.gradients:
                self._run_backward(sequence, generator)
            else:
                with torch.no_grad():
                    self.model(sequence)
        return self.sums

    def _run_backward(self, sequence: torch.Tensor, generator: torch.Generator) -> None:
        logits = self.model(sequence).flatten(0, 1)
        if not torch.isfinite(logits).all():
            raise UsageError("the model's predictions on calibration tokens are not finite", _CHECK)
        with torch.no_grad():
            self.probs = logits.softmax(-1)
            self.labels = torch.multinomial(self.probs, 1, generator=generator)
        F.cross_entropy(logits, self.labels[:, 0], reduction="sum").backward()
        for name, p in self.parameters.items():
            if p.grad is not None:
                self._add((name, "fisher"), p.grad.square().numpy())
                p.grad = None

    def _add(self, key: Key, value: np.ndarray) -> None:
        if key in self.sums:
            self.sums[key] += value
        else:
            self.sums[key] = value.copy()  # three projections share one product

    def _linear(self, hook: Hook, x: torch.Tensor, out: torch.Tensor) -> None:
        if self.last is None or self.last[0] is not x:
            flat = x.detach().flatten(0, -2)
            self.last = (x, (flat.T @ flat).numpy(), flat.abs().sum(0).numpy())
        self._add((hook.module, "hessian"), self.last[1])
        self._add((hook.module, "input_abs"), self.last[2])
        if self.gradients:
            out.register_hook(lambda g: self._output_gradient(hook, g))

    def _output_gradient(self, hook: Hook, grad: torch.Tensor) -> None:
        g = grad.flatten(0, -2)
        squares = self._expected_squares(g) if hook.module in self.heads else g.square()
        self._add((hook.module, "row_weight"), squares.sum(0).numpy())
        self._add((hook.module, "gradients"), np.array([len(g)]))
        if g.shape[1] <= MAX_COV_ROWS:
            self._add((hook.module, "output_cov"), (g.T @ g).numpy())

    def _expected_squares(self, g: torch.Tensor) -> torch.Tensor:
        """E[g^2] over labels, for the output z of a head with logits f(z), f elementwise.

        There g = (p - y) f'(z) with y the sampled label as one-hot, whose square has the mean
        p (1 - p) f'(z)^2. Sampling alone would say nothing of the many tokens it never drew.
        """
        error = self.probs.scatter_add(1, self.labels, torch.full_like(g[:, :1], -1.0))
        slope = torch.where(error == 0, torch.ones_like(g), g / error)
        return self.probs * (1 - self.probs) * slope.square()

    def _embedding(self, hook: Hook, tokens: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(tokens.flatten(), minlength=self._rows(hook))
        self._add((hook.module, "row_weight"), counts.numpy().astype(np.float32))
        out = out.detach().requires_grad_(True)
        out.register_hook(lambda g: self._embedding_gradient(hook, g))
        return out

    def _embedding_gradient(self, hook: Hook, grad: torch.Tensor) -> None:
        g = grad.flatten(0, -2)
        self._add((hook.module, "hessian"), (g.T @ g).numpy())

    def _rows(self, hook: Hook) -> int:
        return next(t.shape[0] for t in self.spec.tensors if hook in t.hooks)


def _hook(see: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]) -> Callable[..., Any]:
    """A forward hook that hands (first input, output) to `see`."""
    return lambda _module, args, out: see(args[0], out)


def _finish(
    spec: ModelSpec, sums: dict[Key, np.ndarray], tokens: CalibTokens, gradients: bool
) -> CalibStats:
    n = tokens.sequences.size
    uses, vector_fisher = {}, {}
    for t in spec.tensors:
        found = [_use(hook, sums, n) for hook in t.hooks if (hook.module, "hessian") in sums]
        if found:
            uses[t.name] = tuple(found)
        elif gradients and not t.hooks:
            fisher = sums.get((t.name, "fisher"))
            vector_fisher[t.name] = np.zeros(t.shape) if fisher is None else fisher / n
    for name, measured in uses.items():
        if not all(np.isfinite(u.hessian).all() for u in measured):
            raise UsageError(
                f"calibration statistics of {name} are not finite",
                _CHECK,
            )
    return CalibStats(uses, vector_fisher, n, tokens.source, tokens.sha256)


def _use(hook: Hook, sums: dict[Key, np.ndarray], n: int) -> Use:
    hessian = (sums.pop((hook.module, "hessian")) / n).astype(np.float32)
    row_weight = sums.get((hook.module, "row_weight"))
    if hook.kind == "embedding":
        # A token that calibration never met still occurs: one more count each (Laplace).
        smoothed = None if row_weight is None else (row_weight + 1) / (n + len(row_weight))
        return Use("embedding", hessian, smoothed)
    input_abs = sums[hook.module, "input_abs"] / n
    if row_weight is None:
        return Use("linear", hessian, None, input_abs)
    # One gradient per token and use: a module that several virtual layers call is averaged over them.
    gradients = sums[hook.module, "gradients"][0]
    cov = sums.pop((hook.module, "output_cov"), None)
    return Use(
        "linear",
        hessian,
        row_weight / gradients,
        input_abs,
        None if cov is None else (cov / gradients).astype(np.float32),
    )
