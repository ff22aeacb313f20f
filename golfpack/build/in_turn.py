"""Rounding group by group, while what is not rounded yet makes up for what is.

Feedback makes up for an error within its matrix; what it leaves is mostly between matrices. So a network
is rounded from its last block to its first, and after every group of tensors all that are still floats
are trained, by the gradient of KL(float model || network as it is now), before the next group is rounded
towards where its weights have moved. QuIP# (Tseng et al., arXiv 2402.04396, section 5) tunes what is
left of a block in this way; here it is what is left of the network. Rounding stays a search, so this
goes with codes that have states, which no gradient could move one by one.

The embeddings, which belong to no block, come last and take up what the file has become smaller or
larger by: their steps alone are chosen so that it fills its budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch

from golfpack.build.distil import distil
from golfpack.build.fitted import fitted_layers, fitted_rounding, rounded
from golfpack.build.latents import Latent
from golfpack.build.prepare import Prepared
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import PackedTensor, QTensor
from golfpack.packer.passes.encode import encoded
from golfpack.packer.state import PackState, step_field
from golfpack.spec import ModelSpec

# Groups at most: with as many tokens in all, more of them learn less each (docs/LOG.md).
GROUPS = 8
# The rate in steps per update is at most the first, and with less than half a token per weight falls
# with what there is, as in `distil`.
RATE, WALK = 0.003, 0.05
# Tokens that the layers of a block are fitted on, about; all blocks before them run for it.
FIT_TOKENS = 8192
# How often the last group's steps are chosen anew, for the file to fill its budget.
TRIES = 8


@dataclass(frozen=True, eq=False)
class InTurn:
    """One network on its way to codes.

    Attributes:
        prepared: what the build works on.
        start: the network rounded at once, whose steps are kept, and its coding.
        text: (n, length) tokens to train on.
        labels: share of the target that is the text's next token, see `distil`.
    """

    prepared: Prepared
    start: PackState
    text: np.ndarray
    labels: float

    def run(self, limit: int | None) -> PackState | None:
        """The network with all groups rounded; None where it would not fit `limit` bytes."""
        start = self.start
        groups = in_groups(start.spec, start.tensors)
        state, last = replace(start, limit=None), len(groups) - 1
        parts = np.array_split(self.text, max(last, 1))
        for i, group in enumerate(groups):
            if i == last and limit is not None:
                return self._filled(state, group, limit)
            rest = [n for later in groups[i + 1 :] for n in later]
            state = self._rounded(state, group, rest)
            if rest:
                state = self._trained(state, rest, parts[i], sum(map(len, parts[:i])))
        return encoded(state)

    def _rounded(self, state: PackState, group: Sequence[str], rest: Sequence[str]) -> PackState:
        """`group` rounded, of a block each layer fitted to what the group has become before it."""
        prepared, spec, floats = self.prepared, state.spec, {*group, *rest}
        module = prepared.model.module({
            n: state.weights[n] if n in floats else t.dequantize().reshape(spec[n].shape)
            for n, t in state.tensors.items()
        })  # fmt: skip
        inside = [n for n in group if spec[n].block is not None]
        layers = fitted_layers(prepared, module, inside)
        fitted = {n for layer in layers for n in layer.names}
        state = self._at_once(state, [n for n in group if n not in fitted])
        if not layers:
            return state
        assert prepared.used is not None
        sequences = prepared.used.sequences
        text = sequences[:: max(1, sequences.size // FIT_TOKENS)]
        return fitted_rounding(prepared, state, module, layers, text, lambda _s, _n: {}, {})

    def _at_once(self, state: PackState, names: Sequence[str]) -> PackState:
        found = rounded(self.prepared, state, names)
        return replace(state, tensors={**state.tensors, **found})

    def _filled(self, state: PackState, group: Sequence[str], limit: int) -> PackState | None:
        """`group` rounded at the steps that fill `limit`: the largest file that was found within it."""
        enough = self.prepared.recipe.search.enough(limit)
        weights = sum(state.spec[n].numel for n in group)
        best, octaves = None, 0.0
        for _ in range(TRIES):
            steps = {n: step_field(self.start, n, state.dial * 2.0**octaves) for n in group}
            found = encoded(self._at_once(replace(state, steps={**state.steps, **steps}), group))
            if found.size <= limit and (best is None or found.size > best.size):
                best = found
            if 0 <= limit - found.size <= enough:
                break
            # A bit per weight and octave; half of what is good enough stays free.
            octaves += 8 * (found.size - limit + enough / 2) / weights
        return best

    def _trained(
        self, state: PackState, rest: Sequence[str], text: np.ndarray, before: int
    ) -> PackState:
        """The weights of what is not rounded yet, as they make up best for what is."""
        if not len(text):
            return state
        weights, notify = self.prepared.model.spec.numel, self.start.notify
        share = min(1.0, 2 * self.text.size / weights) ** 0.25
        updates = whole = len(self.text)  # a sequence each

        def progress(done: int, total: int, note: str) -> None:
            notify("refine", before + round(done / total * len(text)), whole, note)

        backend = self.prepared.backend
        found = distil(
            self.prepared.model.module(), self.prepared.module_of(state.tensors),
            {n: _free(state, n) for n in rest}, text, threads=state.threads, labels=self.labels,
            rate=min(RATE, WALK * share / sqrt(updates)), at_once=1,
            device=backend.device if backend.batched else None,
            progress=progress, helpers=backend.helpers,
        )  # fmt: skip
        moved = {n: x.weight().numpy() for n, x in found.items()}
        return replace(state, weights={**state.weights, **moved})


def in_groups(spec: ModelSpec, tensors: Mapping[str, PackedTensor]) -> list[list[str]]:
    """The tensors that have codes, in the order of rounding: blocks, vectors, what is outside blocks."""
    coded = [t for t in spec.tensors if isinstance(tensors[t.name], QTensor)]
    vectors = [t.name for t in coded if t.role == "vector"]
    blocks: dict[int, list[str]] = {}
    outside: list[str] = []
    for t in coded:
        if t.role != "vector":
            (outside if t.block is None else blocks.setdefault(t.block, [])).append(t.name)
    each = [blocks[b] for b in sorted(blocks, reverse=True)]
    if not each:  # a model of somebody's own, which tells no blocks
        each, outside = [[n] for n in outside[:0:-1]], outside[:1]
    first = [
        [n for k in part for n in each[k]]
        for part in np.array_split(np.arange(len(each)), min(GROUPS - 1, max(len(each), 1)))
    ]
    if not outside and first:
        outside = first.pop()
    return [g for g in (*first, vectors, outside) if g]


def _free(state: PackState, name: str) -> Latent:
    """A tensor as it stands, to be moved as a float."""
    t = state.tensors[name]
    assert isinstance(t, QTensor)
    step = step_matrix(t.steps, t.codes.shape)
    z, steps = (torch.from_numpy(x.astype(np.float32)) for x in (state.matrix(name) / step, step))
    return Latent(z, steps, None, None, state.spec[name].shape, rounded=False)
