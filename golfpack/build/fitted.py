"""Layers fitted to what those before have become, and rounded; what is fitted, and on which text.

What `in_step` does for a network, told in a build's terms: tensors, steps and recipes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from golfpack.build.in_step import InStep, Layer, layers_of
from golfpack.build.prepare import Prepared
from golfpack.packer.format.steps import StepField, step_matrix
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.quantize import Round
from golfpack.packer.state import PackState
from golfpack.spec import as_matrix

# Tokens of text for each of calibration's: fits know more than Hessians if they see other text as well.
MORE_TEXT = 2
# ... but no more than so many times a weight, and no less than so many tokens: a forward pass takes
# time, and all that it holds at one layer is in memory.
MOST_WORK, LEAST_TOKENS = 3e11, 8_192
# (tokens times the network's width: a number in each of two networks takes some 100 bytes)
MOST_HELD = 16_000_000
# Ridge of the fits, as a share of inputs' mean square: over the tokens, as few are fitted with noise;
# and times the share of a tensor's power that rounding errors have, as what a fit adds takes bits.
RIDGE_TOKENS, RIDGE_NOISE = 1_000, 1.0


def fit_tokens(prepared: Prepared) -> int:
    """How many tokens layers are fitted on, about."""
    used, held_out, spec = prepared.used, prepared.held_out, prepared.model.spec
    assert used is not None
    assert held_out is not None
    asked = prepared.recipe.search.sequence_tokens
    has = used.sequences.size
    if used.stream is not None:
        has = max(has, used.stream.size - held_out.sequences.size)
    widest = max(min(as_matrix(t.shape)) for t in spec.tensors)
    most = min(int(MOST_WORK / spec.numel), MOST_HELD // widest)
    return min(has, asked or min(MORE_TEXT * used.sequences.size, max(LEAST_TOKENS, most)))


def fitted_layers(prepared: Prepared, module: nn.Module, names: Sequence[str]) -> list[Layer]:
    """Those of some tensors that can be fitted, as a forward pass meets them.

    None of a user's own class, in whose network batches may stand in any dimension.
    """
    if prepared.model.family.asked_only:
        return []
    return layers_of(module, prepared.model.spec, names)


def fitted_rounding(
    prepared: Prepared,
    state: PackState,
    module: nn.Module,
    layers: Sequence[Layer],
    text: np.ndarray,
    steps: Callable[[PackState, Sequence[str]], Mapping[str, StepField]],
    changed: dict[str, torch.Tensor],
) -> PackState:
    """A state with some layers rounded, each fitted to what has become of those before.

    Args:
        module: the network whose outputs they keep; its weights are the state's.
        text: (n, length) tokens to fit on.
        steps: (the state so far, names of the next layer) -> the steps of its tensors.
        changed: see `InStep`.
    """

    def rounding(targets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal state
        names = list(targets)
        fields = {**state.steps, **steps(state, names)}
        weights = {n: w.astype(np.float32).reshape(state.spec[n].shape) for n, w in targets.items()}
        state = replace(state, weights={**state.weights, **weights}, steps=fields)
        done = rounded(prepared, state, names)
        state = replace(state, tensors={**state.tensors, **done})
        return {n: t.dequantize().astype(np.float64) for n, t in done.items()}

    names = [n for layer in layers for n in layer.names]
    writes = prepared.model.family.writes
    InStep(
        module, state.spec, {} if writes is None else writes(module), changed,
        {n: _ridge(state, n, text.size) for n in names}, layers, rounding, text, state.threads,
    ).run(prepared.backend.device)  # fmt: skip
    return state


def rounded(prepared: Prepared, state: PackState, names: Sequence[str]) -> dict[str, QTensor]:
    """Some tensors rounded as the recipe has it, with the weights and steps of `state`."""
    rounding = next(p for p in prepared.recipe.round if isinstance(p, Round))
    return dict(zip(names, rounding.rounded(state, names), strict=True))


def change(state: PackState, name: str) -> torch.Tensor:
    """(rows, cols): what rounding has changed a tensor by."""
    w = state.matrix(name)
    return torch.from_numpy(
        (state.tensors[name].dequantize().reshape(w.shape) - w).astype(np.float32)
    )


def _ridge(state: PackState, name: str, tokens: int) -> float:
    """See RIDGE_NOISE. Rounding errors are of a twelfth of a step squared, or the weight itself."""
    w = state.matrix(name).astype(np.float64)
    step = step_matrix(state.steps[name], w.shape).astype(np.float64)
    hessian = state.sensitivity[name].hessian
    power = np.ones(w.shape[1]) if hessian is None else np.diagonal(hessian)
    noise = (np.minimum(step**2 / 12, w**2) @ power).sum() / max((w**2 @ power).sum(), 1e-300)
    return RIDGE_TOKENS / tokens + RIDGE_NOISE * float(noise)
