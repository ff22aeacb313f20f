"""One pass over calibration tokens: what every weight's inputs and output gradients look like.

Hessians are E[x x^T] of a linear layer's inputs. With gradients, `collect.probe` stands in for labels
that the model would draw (the true Fisher, not the empirical one: Kunstner et al., arXiv 1905.12558),
the squared output gradients weigh the rows, and a token's inputs count by the size of its output
gradient: errors do no harm where the rest of the network does not look. (Its square, which the best
product of two matrices would take, does no better: docs/LOG.md.) See `spec.Use` for definitions.

Batches are independent: each is one thread's work. Within a batch, sequence after sequence, products
and sums are float32; the sums over batches are float64 and taken in batch order. So the result does
not depend on the number of threads.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from golfpack.base.parallel import Turns, map_ordered
from golfpack.calib.collect import GRAMS, OVERFLOWS, Collector, Key
from golfpack.calib.sources import CalibTokens
from golfpack.errors import UsageError
from golfpack.models.ranks import ALONE, Group
from golfpack.spec import CalibStats, Hook, ModelSpec, Use

Progress = Callable[[int, int, str], None]
# Tokens per batch. Adding a batch up costs as much as the statistics are large, so batches are long;
# the network runs on one sequence at a time, so they need no memory for it.
BATCH_TOKENS = 4096
# Rows of a block of a symmetric product: small ones save work, large ones are quick.
GRAM_BLOCK = 256


def calibrate(
    model: nn.Module,
    spec: ModelSpec,
    tokens: CalibTokens,
    *,
    gradients: bool,
    seed: int,
    threads: int,
    progress: Progress | None = None,
    group: Group = ALONE,
) -> CalibStats:
    """Measure `CalibStats` of a model.

    Args:
        model: built from `spec`, float32 on CPU; left as it was.
        tokens: sequences (n, length).
        gradients: also measure Fisher row weights, gradient covariances and vector Fishers.
        seed: of the probes' signs.
        threads: batches in flight; changes nothing but the time.
        group: processes that each take a part of the batches; all of them get the whole.

    Raises:
        UsageError: the statistics are not finite.
    """
    batches = split_batches(tokens)
    vocabulary = logits_width(model) if gradients else 0
    local, turns = threading.local(), Turns()
    sums: dict[Key, np.ndarray] = {}
    collectors: list[Collector] = []

    def measure(item: tuple[int, tuple[int, np.ndarray]]) -> None:
        order, (index, rows) = item
        with turns.item(order) as wait:
            if not hasattr(local, "sums"):
                torch.set_num_threads(1)
                local.sums = _HostSums()
                local.collector = Collector(copy.deepcopy(model), spec, gradients, local.sums)
                collectors.append(local.collector)
            generator = batch_generator(seed, index)
            for sequence in torch.from_numpy(rows).split(1):
                signs = random_signs(sequence.numel(), vocabulary, generator) if gradients else None
                local.collector.see(sequence, signs)
            local.collector.check()
            wait()
            local.sums.move_to(sums)

    mine = list(enumerate(batches))[group.turns]
    with torch_threads_restored():
        for done, _ in enumerate(map_ordered(measure, enumerate(mine), threads), 1):
            if progress is not None:
                progress(done, len(mine), f"{done * batches[0].size:,} tokens")
    for collector in collectors:
        collector.close()
    del collectors[:]
    for key, total in sums.items():
        if key[1] in GRAMS:
            _mirror(total)
    return finish(spec, group.sum_named(sums), tokens, gradients)


def split_batches(tokens: CalibTokens) -> list[np.ndarray]:
    """Sequences in batches of about BATCH_TOKENS tokens, each with its own source of signs."""
    per_batch = max(1, BATCH_TOKENS // tokens.sequences.shape[1])
    return [tokens.sequences[i : i + per_batch] for i in range(0, len(tokens.sequences), per_batch)]


@torch.no_grad()
def logits_width(model: nn.Module) -> int:
    """How many logits a model makes per token."""
    device = next(model.parameters()).device
    return model(torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]


@contextmanager
def torch_threads_restored() -> Iterator[None]:
    """Run with one torch thread, and give the caller's setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _HostSums:
    """float32 sums of one batch at a time, as numpy adds."""

    def __init__(self) -> None:
        self.arrays: dict[Key, np.ndarray] = {}

    def add(self, key: Key, value: torch.Tensor) -> None:
        array = value.numpy()
        if key in self.arrays:
            self.arrays[key] += array
        else:
            self.arrays[key] = array.copy()  # three projections share one input

    def add_gram(self, key: Key, x: torch.Tensor) -> None:
        # Half of a symmetric product will do: its lower triangle, in blocks, added where it belongs.
        width = x.shape[1]
        if key not in self.arrays:
            self.arrays[key] = np.zeros((width, width), np.float32)
        total = torch.from_numpy(self.arrays[key])
        for begin in range(0, width, GRAM_BLOCK):
            end = min(begin + GRAM_BLOCK, width)
            total[begin:end, :end].addmm_(x[:, begin:end].T, x[:, :end])

    def move_to(self, totals: dict[Key, np.ndarray]) -> None:
        """Add everything to `totals`, float64; the next sums start at nothing."""
        for key, value in self.arrays.items():
            if key not in totals:
                totals[key] = np.zeros(value.shape)
            totals[key] += value
            value.fill(0)


def _mirror(lower: np.ndarray) -> None:
    """Fill the upper triangle of a symmetric matrix from the lower one, in place."""
    for i in range(len(lower)):
        lower[i, i + 1 :] = lower[i + 1 :, i]


def batch_generator(seed: int, index: int) -> torch.Generator:
    """The source of the signs of a batch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def random_signs(tokens: int, vocabulary: int, generator: torch.Generator) -> torch.Tensor:
    """(tokens, vocabulary) float32, -1 and 1, of the same chance: what `collect.probe` is made of."""
    return torch.empty(tokens, vocabulary).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def finish(
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
                OVERFLOWS,
            )
    return CalibStats(uses, vector_fisher, n, tokens.source, tokens.sha256)


def _use(hook: Hook, sums: dict[Key, np.ndarray], n: int) -> Use:
    hessian = sums.pop((hook.module, "hessian")) / n
    row_weight = sums.get((hook.module, "row_weight"))
    if hook.kind == "embedding":
        # A token that calibration never met still occurs: one more count each (Laplace).
        if row_weight is None:
            return Use("embedding", hessian.astype(np.float32), None)
        smoothed = (row_weight + 1) / (n + len(row_weight))
        along, power = (sums[hook.module, key] for key in ("along", "power"))
        # Without gradients nothing tells of a norm.
        share = along / power if power[0] > 0 else np.full(1, 1 / len(hessian))
        radial = share * len(hessian)
        return Use("embedding", hessian.astype(np.float32), smoothed, radial=radial)
    input_abs = sums[hook.module, "input_abs"] / n
    if row_weight is None:
        return Use("linear", hessian.astype(np.float32), None, input_abs)
    # One gradient per token and use: a module that several virtual layers call is averaged over them.
    gradients = sums[hook.module, "gradients"][0]
    cov = sums.pop((hook.module, "output_cov"), None)
    return Use(
        "linear",
        (hessian * (gradients / sums[hook.module, "size"][0])).astype(np.float32),
        row_weight / gradients,
        input_abs,
        None if cov is None else (cov / gradients).astype(np.float32),
    )
