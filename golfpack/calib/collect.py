"""Hooks on a model that add up what calibration wants to know, one sequence after another.

The sums themselves are somebody else's: numpy's on the CPU (`stats.py`), a device's own (`device.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.spec import Hook, ModelSpec

Key = tuple[str, str]  # (module of the hook, quantity)

# Quantities that are sums of x^T x.
GRAMS = ("hessian", "output_cov")

# Output covariances are only kept up to this many rows: a head's would dwarf the model.
MAX_COV_ROWS = 4096

# Added to the size of every token's gradient: where no token has any, all count alike.
NO_GRADIENT = 1e-12

# Added to the power of a looked-up row, which may be all zeros.
NO_POWER = 1e-30

OVERFLOWS = "the model overflows on these tokens; check its config and its weights"


class Sums(Protocol):
    """Where quantities are added up."""

    def add(self, key: Key, value: torch.Tensor) -> None:
        """Add a value to the sum of its key; the tensor may be used for another key as well."""
        ...

    def add_gram(self, key: Key, x: torch.Tensor) -> None:
        """Add x^T x of (tokens, width) rows to the sum of its key, one of `GRAMS`."""
        ...


@dataclass
class Collector:
    """A private copy of the model with hooks.

    Attributes:
        model: on the device it is to run on.
        gradients: also see output gradients.
        sums: where everything goes.
    """

    model: nn.Module
    spec: ModelSpec
    gradients: bool
    sums: Sums
    probs: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    probe: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    # Query, key and value projections read one and the same tensor: look at it once.
    last: tuple[torch.Tensor, torch.Tensor] | None = None
    handles: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        self.parameters = dict(self.model.named_parameters())
        self.finite = torch.ones(
            (), dtype=torch.bool, device=next(iter(self.parameters.values())).device
        )
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

    def close(self) -> None:
        """Take the hooks off: through them a model holds on to this, and to its copy of all weights."""
        for handle in self.handles:
            handle.remove()

    def _attach(self, hook: Hook, module: nn.Module) -> None:
        see = self._linear if hook.kind == "linear" else self._embedding
        if hook.kind == "linear" or self.gradients:
            handle = module.register_forward_hook(_hook(lambda x, out: see(hook, x, out)))
            self.handles.append(handle)

    def see(self, sequence: torch.Tensor, signs: torch.Tensor | None) -> None:
        """Add a sequence (1, length), on the model's device.

        Args:
            signs: (length, vocabulary) of the probe; None without gradients.
        """
        if signs is None:
            with torch.no_grad():
                self.model(sequence)
        else:
            self._run_backward(sequence, signs)
        # What it was made by has hooks of this on it: a circle that no collector of garbage sees.
        self.last = None

    def check(self) -> None:
        """Raise UsageError where a prediction was not finite. It waits for the device."""
        if not bool(self.finite):
            raise UsageError(
                "the model's predictions on calibration tokens are not finite", OVERFLOWS
            )

    def _run_backward(self, sequence: torch.Tensor, signs: torch.Tensor) -> None:
        logits = self.model(sequence).flatten(0, 1)
        with torch.no_grad():
            self.finite &= torch.isfinite(logits).all()
            self.probs = logits.softmax(-1)
            self.probe = probe(self.probs, signs)
        logits.backward(self.probe)
        for name, p in self.parameters.items():
            if p.grad is not None:
                self.sums.add((name, "fisher"), p.grad.square())
                p.grad = None

    def _linear(self, hook: Hook, x: torch.Tensor, out: torch.Tensor) -> None:
        flat = x.detach().flatten(0, -2)
        if self.last is None or self.last[0] is not x:
            self.last = (x, flat.abs().sum(0))
        self.sums.add((hook.module, "input_abs"), self.last[1])
        if self.gradients:
            out.register_hook(lambda g: self._output_gradient(hook, flat, g))
        else:
            self.sums.add_gram((hook.module, "hessian"), flat)

    def _output_gradient(self, hook: Hook, x: torch.Tensor, grad: torch.Tensor) -> None:
        g = grad.flatten(0, -2)
        squares = self._expected_squares(g) if hook.module in self.heads else g.square()
        size = squares.sum(1).sqrt() + NO_GRADIENT
        self.sums.add_gram((hook.module, "hessian"), x * size.sqrt()[:, None])
        self.sums.add((hook.module, "size"), size.sum()[None])
        self.sums.add((hook.module, "row_weight"), squares.sum(0))
        self.sums.add((hook.module, "gradients"), torch.full((1,), len(g), device=g.device))
        if g.shape[1] <= MAX_COV_ROWS:
            self.sums.add_gram((hook.module, "output_cov"), g)

    def _expected_squares(self, g: torch.Tensor) -> torch.Tensor:
        """E[g^2] over probes, for the output z of a head with logits f(z), f elementwise.

        There g = v f'(z), whose square has the mean p (1 - p) f'(z)^2.
        """
        slope = torch.where(self.probe == 0, torch.ones_like(g), g / self.probe)
        return self.probs * (1 - self.probs) * slope.square()

    def _embedding(self, hook: Hook, tokens: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        ids = tokens.flatten()
        counts = torch.zeros(self._rows(hook), device=ids.device)
        counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))  # exact: whole numbers
        self.sums.add((hook.module, "row_weight"), counts)
        looked_up = out.detach().flatten(0, -2)
        out = out.detach().requires_grad_(True)
        out.register_hook(lambda g: self._embedding_gradient(hook, looked_up, g))
        return out

    def _embedding_gradient(self, hook: Hook, rows: torch.Tensor, grad: torch.Tensor) -> None:
        g = grad.flatten(0, -2)
        self.sums.add_gram((hook.module, "hessian"), g)
        along = (g * rows).sum(1).square() / (rows.square().sum(1) + NO_POWER)
        self.sums.add((hook.module, "along"), along.sum()[None])
        self.sums.add((hook.module, "power"), g.square().sum()[None])

    def _rows(self, hook: Hook) -> int:
        return next(t.shape[0] for t in self.spec.tensors if hook in t.hooks)


def probe(p: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """A gradient by logits whose covariance is that of the loss of a label drawn from p.

    v = sqrt(p) s - p (sqrt(p) . s) with random signs s has E[v v^T] = diag(p) - p p^T, the Fisher
    information of a softmax. So have p - y of drawn labels y; but where p is sure, those hardly ever
    differ from 0, and then by much, while v is of one size: the same tokens tell more (Hutchinson's
    estimator has its least variance with signs: Comm. Stat. 19, 1990; docs/LOG.md).

    Args:
        p: (..., V) probabilities.
        signs: (..., V), -1 and 1.
    """
    v = p.sqrt().mul_(signs)
    return v - p * v.sum(-1, keepdim=True)


def _hook(see: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]) -> Callable[..., Any]:
    """A forward hook that hands (first input, output) to `see`."""
    return lambda _module, args, out: see(args[0], out)
