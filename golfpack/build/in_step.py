"""Two networks, the float one and the one that is being rounded, on the same text, in step.

Calibration tells what a layer's inputs are in the float network. In the rounded one they are others, as
all layers before have errors, and much of what comes of that is a linear function of what the layer does
see. So a layer's weights are first fitted to it, then rounded: with x the inputs in the float network, z
those in the rounded one, W' = argmin |W x - W' z|^2 over tokens. Qronos (arXiv 2505.11695) and GPTAQ
(arXiv 2504.02692) do so, a layer or a block at a time. A layer that adds to the residual stream is
fitted to make up for all that the stream has lost so far, too: W x + (s - s') / scale, with s and s' the
streams that it adds to. That is half of what is gained here (docs/LOG.md).

One forward pass does: all text goes through the network at once, and at every layer it waits until that
is rounded. A batch is twice the same sequences: the first half goes through float weights, the second
through rounded ones, as a hook adds what each layer's change makes of its inputs.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import cho_factor, cho_solve
from torch import nn

from golfpack.base.parallel import one_thread_each
from golfpack.calib.stats import torch_threads_restored
from golfpack.models.base import Writes
from golfpack.models.device import exact_products
from golfpack.spec import Hook, ModelSpec

# Tokens per batch: each has its own sums, and waits with all it needs to go on.
BATCH_TOKENS = 2048
# Of the mean square of the stream's factors: a channel that a layer hardly writes to cannot be made up
# for by it.
LEAST_FACTOR = 0.01

Rounder = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Layer:
    """Matrices that read one and the same input, in the order of their calls."""

    names: tuple[str, ...]


@dataclass(eq=False)
class InStep:
    """One pass.

    Attributes:
        module: the float network; its weights are left as they are.
        spec: of it.
        writes: what the family tells of the residual stream.
        changed: by what rounding changed the tensors that are rounded before the pass; (rows, cols)
            float32. Those that the pass rounds are added.
        ridge: by tensor, of the fits, as a share of the inputs' mean square.
        layers: what to fit, see `layers_of`.
        rounded: float weights of a layer's matrices, (rows, cols) float64 -> as they are rounded.
        text: (n, length) tokens.
        threads: batches in flight; changes nothing but the time.
    """

    module: nn.Module
    spec: ModelSpec
    writes: Mapping[str, Writes]
    changed: dict[str, torch.Tensor]
    ridge: Mapping[str, float]
    layers: Sequence[Layer]
    rounded: Rounder
    text: np.ndarray
    threads: int
    _local: threading.local = field(default_factory=threading.local)
    _found: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict[int, Any])

    def __post_init__(self) -> None:
        self._batches = _batches(self.text)
        self._firsts = {layer.names[0] for layer in self.layers}
        self._slots = threading.Semaphore(max(1, self.threads))
        self._wait = threading.Barrier(len(self._batches), self._fit)

    def run(self, device: str) -> None:
        """Fit and round the layers, in their order."""
        batches, module = self._batches, self.module.to(device)
        for name, change in self.changed.items():
            self.changed[name] = change.to(device)
        handles = self._attach(module)
        try:
            with (
                torch_threads_restored(),
                exact_products(),
                one_thread_each(),
                ThreadPoolExecutor(len(batches)) as pool,
            ):
                work = [
                    pool.submit(self._pass, module, i, torch.from_numpy(b).to(device))
                    for i, b in enumerate(batches)
                ]
                failed = [e for e in (w.exception() for w in work) if e is not None]
            # A thread that fails breaks the others' barrier: what it failed of is what counts.
            failed.sort(key=lambda e: isinstance(e, threading.BrokenBarrierError))
            if failed:
                raise failed[0]
        finally:
            for handle in handles:
                handle.remove()
            module.to("cpu")

    def _pass(self, module: nn.Module, index: int, sequences: torch.Tensor) -> None:
        torch.set_num_threads(1)
        self._local.index, self._local.streams = index, {}
        self._local.rows = 2 * len(sequences)
        try:
            with self._slots, torch.no_grad():
                module(torch.cat([sequences, sequences]))
        except _AllRounded:
            pass
        except BaseException:
            self._wait.abort()
            raise

    def _attach(self, module: nn.Module) -> list[Any]:
        handles = []
        for name, where in self.writes.items():
            block = module.get_submodule(where.block)
            if where.after is None:
                handles.append(block.register_forward_pre_hook(self._enters(name, where)))
        for t in self.spec.tensors:
            for hook in t.hooks:
                see = self._linear(t.name) if hook.kind == "linear" else self._rows(t.name)
                handles.append(module.get_submodule(hook.module).register_forward_hook(see))
        return handles

    def _enters(self, name: str, where: Writes) -> Callable[..., None]:
        """A hook that keeps the stream as a block begins with it."""

        def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._local.streams[name] = where.enters(args)

        return keep

    def _rows(self, name: str) -> Callable[..., torch.Tensor | None]:
        def see(_module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
            change, ids = self.changed.get(name), args[0]
            if change is None:
                return None
            if ids.dim() == 1:  # positions, the same ones for all sequences
                out, ids = (x.expand(self._local.rows, *x.shape) for x in (out, ids))
            half = len(ids) // 2
            out = out.clone()
            out[half:] += F.embedding(ids[half:], change)
            return out

        return see

    def _linear(self, name: str) -> Callable[..., torch.Tensor | None]:
        writes = self.writes.get(name)
        following = [n for n, w in self.writes.items() if w.after == name]

        def see(_module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
            x, half = args[0], len(out) // 2
            stream = None if writes is None else self._local.streams.pop(name, None)
            if name in self._firsts and name not in self.changed:
                self._meet(x, half, stream)
            change = self.changed.get(name)
            if change is not None:
                out[half:] += F.linear(x[half:], change)
            for later in following:
                if stream is not None and writes is not None:
                    add = out if writes.factor is None else writes.factor * out
                    self._local.streams[later] = stream + add
            if name == self.layers[-1].names[-1]:
                raise _AllRounded
            return out

        return see

    def _meet(self, x: torch.Tensor, half: int, stream: torch.Tensor | None) -> None:
        """Add what this batch sees of a layer, and wait until that is rounded."""
        inputs, seen = x[:half].flatten(0, -2), x[half:].flatten(0, -2)
        found = {"hessian": seen.T @ seen, "gap": seen.T @ (inputs - seen)}
        if stream is not None:
            lost = stream[:half] - stream[half:]
            found["lost"] = seen.T @ lost.flatten(0, -2)
        self._found[self._local.index] = found
        self._slots.release()
        try:
            self._wait.wait()
        finally:
            self._slots.acquire()

    def _fit(self) -> None:
        """Fit and round the next layer, where all batches wait for it."""
        done = sum(layer.names[0] in self.changed for layer in self.layers)
        layer, found = self.layers[done], self._found
        totals = {key: torch.zeros_like(x, dtype=torch.float64) for key, x in found[0].items()}
        for i in range(len(found)):  # in the order of batches: no thread's haste changes a bit
            for key, x in found[i].items():
                totals[key] += x
        sums = {key: total.cpu().numpy() for key, total in totals.items()}
        self._found = {}
        hessian = sums["hessian"]
        power = max(np.trace(hessian) / len(hessian), 1e-30)
        if not all(np.isfinite(x).all() for x in sums.values()):  # overflown: nothing to go by
            sums, hessian, power = {"gap": np.zeros_like(hessian)}, np.eye(len(hessian)), 1.0
        targets, exact = {}, {}
        for name in layer.names:
            w = self.module.get_parameter(name).detach()
            exact[name] = w.reshape(len(w), -1).double().cpu().numpy()
            wanted = sums["gap"] @ exact[name].T
            if "lost" in sums:
                wanted += sums["lost"] * _inverse(self.writes[name].factor)
            ridged = hessian + self.ridge[name] * power * np.eye(len(hessian))
            targets[name] = exact[name] + cho_solve(cho_factor(ridged, lower=True), wanted).T
        for name, codes in self.rounded(targets).items():
            change = torch.from_numpy((codes - exact[name]).astype(np.float32))
            self.changed[name] = change.to(self.module.get_parameter(name).device)


class _AllRounded(Exception):
    """Nothing behind is of interest."""


def layers_of(module: nn.Module, spec: ModelSpec, names: Sequence[str]) -> list[Layer]:
    """The matrices among `names` that can be fitted, as a forward pass meets them.

    Those are called once, so blocks that run more than once are not among them, and neither are heads:
    their outputs are as many as there are tokens to choose from.
    """
    calls: list[tuple[str, torch.Tensor]] = []
    linear = {
        t.name: t.hooks[0]
        for t in spec.tensors
        if t.name in set(names) and _one_linear(t.hooks) and t.role not in ("embed", "head")
    }
    handles = [
        module.get_submodule(hook.module).register_forward_hook(
            lambda _m, args, _out, name=name: calls.append((name, args[0]))
        )
        for name, hook in linear.items()
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(2, 2, dtype=torch.int64))
    finally:
        for handle in handles:
            handle.remove()
    called = [name for name, _ in calls]
    layers: list[list[str]] = []
    last = None
    for name, x in calls:
        if called.count(name) > 1:
            continue
        if x is last:
            layers[-1].append(name)
        else:
            layers.append([name])
        last = x
    return [Layer(tuple(group)) for group in layers]


def _one_linear(hooks: Sequence[Hook]) -> bool:
    return len(hooks) == 1 and hooks[0].kind == "linear"


def _inverse(factor: torch.Tensor | None) -> np.ndarray:
    """1 / factor per channel, (1,) or (rows,), but nearly 0 where that is nearly 0."""
    if factor is None:
        return np.ones(1)
    f = factor.detach().double().cpu().numpy()
    return f / (f**2 + LEAST_FACTOR * np.mean(f**2) + 1e-30)


def _batches(text: np.ndarray) -> list[np.ndarray]:
    per_batch = max(1, BATCH_TOKENS // text.shape[1])
    rows = text.astype(np.int64)
    return [rows[i : i + per_batch] for i in range(0, len(rows), per_batch)]
