"""What the compiler would make of the weights of a run: steps, errors, bytes and KL at the run's budget.

A look calibrates on training tokens and lets the recipe `rd` solve for the step field that meets the
budget, as a build does. With H^-1 = U^T U and B^-1 = V^T V of the inputs' and the output gradients'
second moments, rounding with feedback on both sides leaves the error V^T Z U, Z being each weight's own
rounding error over U_ii V_rr (`packer.quantize.gptq`); with rd's steps all of Z has one size. So a look
leaves two matrices per tensor, and an error like the compiler's is two products away.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.packer.format.container import parse
from golfpack.packer.format.rans.context_model import fine_codes
from golfpack.packer.format.tensors import PackedTensor, code_matrix
from golfpack.packer.format.trellis import FINE
from golfpack.packer.quantize.gptq import Factor
from golfpack.packer.quantize.listsearch import scales_of
from golfpack.packer.rate import RateModel
from golfpack.packer.recipe import Recipe, load_recipe
from golfpack.packer.state import PackState, quantized_names, run_passes, step_field
from golfpack.spec import ModelSpec

RECIPE = "rd"
# A uniform error of a step has this deviation.
UNIFORM = 12**-0.5
# Sequences of a look, and how many of them it does not calibrate on.
LENGTH, HELD_OUT = 512, 4


class Grid(NamedTuple):
    """How one matrix (rows, cols) would be quantized.

    Attributes:
        row: (rows, 1) float32 steps, which `col` (1, cols) multiplies.
        left: (rows, rows) float32, or (rows, 1) that scales rows where there is no feedback along them.
        right: (cols, cols) float32, or (1, cols). The error is left^T N right, N of unit variance;
            vectors multiply elementwise.
        fine: (rows, cols) bool: which codes with states would be fine (`format.trellis`). None in runs
            of before.
    """

    row: torch.Tensor
    col: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    fine: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """What a build would be at one step of a run.

    Attributes:
        number: of the looks of its run, from 0 on.
        step: steps taken then.
        dial: of the step field.
        artifact_bytes: of the file at that dial.
        kl: KL(float || artifact), nats per token.
        bytes_ratio: real bits of the coded tensors over the rate model's, by a rounding for real.
        fixed_bits: of what is no weights (header, manifest), there.
        kl_constant: KL over the dial's square, there.
        grids: by matrix, those that are quantized by what calibration saw of their inputs.
    """

    number: int
    step: int
    dial: float
    artifact_bytes: int
    kl: float
    bytes_ratio: float
    fixed_bits: int
    kl_constant: float
    grids: Mapping[str, Grid]

    @property
    def told(self) -> str:
        """For people."""
        return f"artifact {self.artifact_bytes:,} B at KL {self.kl:.3f}"

    def record(self) -> dict[str, Any]:
        """For the log."""
        told = ("step", "dial", "artifact_bytes", "kl")
        return {"type": "artifact", **{name: getattr(self, name) for name in told}}

    def state(self) -> dict[str, Any]:
        """As tensors and plain values."""
        grids = {name: tuple(grid) for name, grid in self.grids.items()}
        return {**vars(self), "grids": grids}

    @staticmethod
    def restored(state: Mapping[str, Any], device: torch.device) -> "Look":
        """From what `state` returned."""
        grids = {
            name: Grid(*(t.to(device) for t in parts if t is not None))
            for name, parts in state["grids"].items()
        }
        return Look(**{**state, "grids": grids})


def look(
    model: nn.Module,
    spec: ModelSpec,
    tokens: np.ndarray,
    budget_bytes: int,
    number: int,
    step: int,
    before: Look | None,
    *,
    count: int,
    seed: int,
    last: bool = False,
) -> Look:
    """What a build of `model` at `budget_bytes` would be.

    The first look and the last round and code all weights for real once, which tells how the rate
    model's bits relate to the file's, and, on tokens that they did not calibrate on, the KL to the dial.
    Both change slowly: other looks solve the rate model alone, and the KL goes with the dial's square.

    Args:
        tokens: (N,) of training.
        budget_bytes: within the recipe's reach (`aiming.Aim.check`), which quantizes every tensor.
        before: the look before this one, or None.
        count: tokens to calibrate on.
        seed: of the sampled labels.
        last: whether the model is finished.
    """
    host = copy.deepcopy(model).to("cpu", torch.float32).eval()
    rows = _sequences(spec, tokens, count)
    state, recipe = _prepared(host, spec, rows[HELD_OUT:], seed)
    rate = RateModel(state)
    wanted = 8 * budget_bytes - rate.kept_bits
    ratio, constant, fixed = 1.0, 0.0, 0
    if before is not None:
        ratio, constant, fixed = before.bytes_ratio, before.kl_constant, before.fixed_bits
    dial = 2.0 ** rate.solve((wanted - fixed) / ratio)
    if before is None or last:
        probe = run_passes(recipe.round, replace(state, dial=dial))
        assert probe.blob is not None
        fixed = 8 * parse(probe.blob).overhead
        ratio = (8 * probe.size - rate.kept_bits - fixed) / max(rate.bits(log2(dial)), 1.0)
        constant = _kl(host, probe.tensors, rows[:HELD_OUT]) / dial**2
        dial = 2.0 ** rate.solve((wanted - fixed) / ratio)
    size = round((rate.kept_bits + fixed + ratio * rate.bits(log2(dial))) / 8)
    device = next(model.parameters()).device
    grids = {
        name: _grid(state, name, dial, device)
        for name in quantized_names(state)
        if state.sensitivity[name].factor is not None
    }
    return Look(number, step, dial, size, constant * dial**2, ratio, fixed, constant, grids)


def _sequences(spec: ModelSpec, tokens: np.ndarray, count: int) -> np.ndarray:
    """(HELD_OUT + n, length) of `tokens`, `count` in the n last, if there are so many.

    The first are measured on, and the others calibrated on.
    """
    length = min(LENGTH, spec.config.get("seq_len", LENGTH), tokens.size)
    rows = HELD_OUT + max(1, count // length)
    starts = np.linspace(0, tokens.size - length, rows).astype(np.int64)
    order = np.random.default_rng(0).permutation(rows)
    return np.stack([tokens[s : s + length] for s in starts[order]]).astype(np.int64)


@torch.no_grad()
def _kl(model: nn.Module, tensors: Mapping[str, PackedTensor], rows: np.ndarray) -> float:
    """KL(model || the model with these tensors) on `rows`, nats per token."""
    packed = copy.deepcopy(model)
    for name, p in packed.named_parameters():
        p.copy_(torch.from_numpy(tensors[name].dequantize()).view_as(p))
    total = 0.0
    for row in torch.from_numpy(rows).split(1):
        p, q = (m(row).double().log_softmax(-1) for m in (model, packed))
        total += float((p.exp() * (p - q)).sum())
    return total / rows.size


def _prepared(
    host: nn.Module, spec: ModelSpec, rows: np.ndarray, seed: int
) -> tuple[PackState, Recipe]:
    """The state as a search gets it."""
    stats = calibrate(
        host, spec, CalibTokens(rows, "training"), gradients=True, seed=seed, threads=1
    )
    recipe = load_recipe(RECIPE)
    weights = {name: p.detach().numpy() for name, p in host.named_parameters()}
    state = PackState(spec, {t.name: weights[t.name] for t in spec.tensors}, stats)
    return run_passes(recipe.prepare, state), recipe


def _grid(state: PackState, name: str, dial: float, device: torch.device) -> Grid:
    known, steps = state.sensitivity[name], step_field(state, name, dial)
    w = state.matrix(name)
    fine = fine_codes(code_matrix(w.shape, steps, FINE), scales_of(w, steps))
    row = steps.row.astype(np.float64)
    col = np.ones(1) if steps.col is None else steps.col.astype(np.float64)
    left, right = _side(known.row_factor, row), UNIFORM * _side(known.factor, col)
    parts = (
        row[:, None], col[None], left if left.ndim == 2 else left[:, None],
        right if right.ndim == 2 else right[None],
    )  # fmt: skip
    told = (*(p.astype(np.float32) for p in parts), fine)
    return Grid(*(torch.from_numpy(p).to(device) for p in told))


def _side(factor: Factor | None, steps: np.ndarray) -> np.ndarray:
    """What unit errors of rounding become along one side: (n, n) with feedback, else (n,)."""
    if factor is None:
        return steps
    own = np.diag(factor.upper).astype(np.float64)
    out = np.empty(factor.upper.shape)
    out[:, factor.order] = factor.upper * (steps[factor.order] / own)[:, None]
    return out
