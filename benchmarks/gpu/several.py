"""Several small models that train at once on one device, as those of bench_whole_way.py do.

A small model leaves most of a GPU idle: its steps wait for Python to launch them.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.gpu.measure import Findings, Job, synchronise
from golfpack.models import FAMILIES
from golfpack.size.shapes import options_of, read_shape
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import train

VOCAB, LENGTH = 1024, 512
SHAPES = ("4x160", "5x192", "6x256", "6x320")
WARM_STEPS = 5


def several(job: Job, found: Findings) -> None:
    """Tokens per second of one model, and of eight of four shapes, with and without torch.compile."""
    alone = _rate(job, "6x256", None)[0]
    found.figure("6x256 alone", alone, "tokens/s")
    shapes = SHAPES[: job.pick(4, 1)] * job.pick(2, 1)
    for mode in (None,) if job.smoke else (None, "default"):
        began = time.perf_counter()
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(shapes), mp_context=spawn) as pool:
            told = list(pool.map(_rate, [job] * len(shapes), shapes, [mode] * len(shapes)))
        name = f"{len(shapes)} at once, {'compiled' if mode else 'as they are'}"
        found.figure(
            name, sum(rate for rate, _ in told), "tokens/s",
            straightforward=alone, ratio=sum(rate for rate, _ in told) / alone, what="6x256 alone",
            each=dict(zip(shapes, told, strict=False)), seconds=time.perf_counter() - began,
        )  # fmt: skip
        found.figure(f"{name}: their first steps", max(first for _, first in told), "s")


def _rate(job: Job, shape: str, mode: str | None) -> tuple[float, float]:
    """(tokens/s, seconds until steps are at their speed)."""
    family, batch = FAMILIES["golf"], job.pick(32_768, LENGTH)
    model = {"vocab_size": VOCAB, **options_of(family, read_shape(shape))}
    steps = WARM_STEPS + job.pick(75, 2)
    config = TrainConfig(
        steps=steps, batch_tokens=batch, seq_len=LENGTH, threads=1, save_every=1 << 20,
        log_every=1 << 20, device=job.device, compile_mode=mode,
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, VOCAB, 4 * batch + 1).astype(np.uint16)
    at: dict[int, float] = {}

    def clock(done: int, total: int, note: str) -> None:
        if done in (WARM_STEPS, steps - 1):
            synchronise(job.device)
            at[done] = time.perf_counter()

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(config, model, tokens, Path(folder) / "run", progress=clock)
    counted = steps - 1 - WARM_STEPS
    return counted * batch / (at[steps - 1] - at[WARM_STEPS]), at[WARM_STEPS] - began
