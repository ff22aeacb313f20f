"""Calibration on a torch device: the same quantities as `stats.calibrate`, of the same probes.

The network runs sequence after sequence as on the CPU, because a vector's Fisher is a square of whole
sequences' gradients; products are float32 (never TF32) and add up in float64 on the device. Signs are
drawn by the CPU's own generator. So the two differ by rounding alone. Nothing waits for the device
before the end.
"""

import copy

import torch
from torch import nn

from golfpack.base.parallel import map_ordered
from golfpack.calib.collect import Collector, Key
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import (
    Progress,
    batch_generator,
    finish,
    logits_width,
    random_signs,
    split_batches,
)
from golfpack.models.device import exact_products, send
from golfpack.models.ranks import ALONE, Group
from golfpack.spec import CalibStats, ModelSpec


def calibrate_on(
    device: str,
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
    """Measure `CalibStats` of a model on `device`; otherwise as `stats.calibrate`.

    Args:
        threads: of the CPU, which draws the signs.
        group: as for `stats.calibrate`.

    Raises:
        UsageError: the statistics are not finite.
    """
    sums = _DeviceSums(device)
    collector = Collector(copy.deepcopy(model).to(device), spec, gradients, sums)
    batches = split_batches(tokens)
    vocabulary = logits_width(model) if gradients else 0

    def signs_of(index: int) -> list[torch.Tensor | None]:
        if not gradients:
            return [None] * len(batches[index])
        generator, length = batch_generator(seed, index), batches[index].shape[1]
        return [random_signs(length, vocabulary, generator) for _ in batches[index]]

    mine = range(len(batches))[group.turns]
    signs = map_ordered(signs_of, mine, threads)
    with exact_products():
        for done, (index, rows) in enumerate(zip(mine, signs, strict=True), 1):
            for row, drawn in zip(torch.from_numpy(batches[index]).split(1), rows, strict=True):
                collector.see(send(row, device), None if drawn is None else send(drawn, device))
            if progress is not None:
                progress(done, len(mine), f"{done * batches[0].size:,} tokens")
    collector.check()
    collector.close()
    arrays = {key: total.cpu().numpy() for key, total in sums.totals.items()}
    return finish(spec, group.sum_named(arrays), tokens, gradients)


class _DeviceSums:
    """Float64 sums on a device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.totals: dict[Key, torch.Tensor] = {}

    def add(self, key: Key, value: torch.Tensor) -> None:
        if key in self.totals:
            self.totals[key] += value
        else:
            self.totals[key] = value.to(self.device, torch.float64, copy=True)

    def add_gram(self, key: Key, x: torch.Tensor) -> None:
        self.add(key, x.T @ x)
