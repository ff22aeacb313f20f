"""Several small models that train at once on one device, as those of bench_whole_way.py do.

A small model leaves most of a GPU idle: its steps wait for Python to launch them.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
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
# Where a process waits until all of them have warmed up; None: it is alone.
_meeting: list[Barrier | None] = [None]


def several(job: Job, found: Findings) -> None:
    """Tokens per second of one model, and of eight of four shapes, with and without torch.compile."""
    begin, end, tokens, _ = _trained(job, "6x256", None)
    alone = tokens / (end - begin)
    found.figure("6x256 alone", alone, "tokens/s")
    shapes = SHAPES[: job.pick(4, 1)] * job.pick(2, 1)
    for mode in (None,) if job.smoke else (None, "default"):
        spawn = multiprocessing.get_context("spawn")
        meeting = spawn.Barrier(len(shapes))
        with ProcessPoolExecutor(
            len(shapes), mp_context=spawn, initializer=_meet_at, initargs=(meeting,)
        ) as pool:
            told = list(pool.map(_trained, [job] * len(shapes), shapes, [mode] * len(shapes)))
        name = f"{len(shapes)} at once, {'compiled' if mode else 'as they are'}"
        # From the first one's start to the last one's end: no rate that one has by itself.
        seconds = max(end for _, end, _, _ in told) - min(begin for begin, _, _, _ in told)
        together = sum(tokens for _, _, tokens, _ in told) / seconds
        found.figure(
            name, together, "tokens/s", straightforward=alone, ratio=together / alone,
            what="6x256 alone", shapes=shapes, each=[n / (end - begin) for begin, end, n, _ in told],
        )  # fmt: skip
        found.figure(f"{name}: their first steps", max(first for *_, first in told), "s")


def _meet_at(meeting: Barrier) -> None:
    _meeting[0] = meeting


def _trained(job: Job, shape: str, mode: str | None) -> tuple[float, float, int, float]:
    """(start, end, by the clock, tokens in between, seconds until steps were at their speed)."""
    family, batch = FAMILIES["golf"], job.pick(32_768, LENGTH)
    model = {"vocab_size": VOCAB, **options_of(family, read_shape(shape))}
    steps = WARM_STEPS + job.pick(75, 2)
    config = TrainConfig(
        steps=steps, batch_tokens=batch, seq_len=LENGTH, threads=1, save_every=1 << 20,
        log_every=1 << 20, device=job.device, compile_mode=mode,
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, VOCAB, 4 * batch + 1).astype(np.uint16)
    at: dict[str, float] = {}

    def clock(done: int, total: int, note: str) -> None:
        if done in (WARM_STEPS, steps - 1):
            synchronise(job.device)
        if done == WARM_STEPS:
            at["warm"] = time.time()
            if _meeting[0] is not None:
                _meeting[0].wait()
            at["begin"] = time.time()
        elif done == steps - 1:
            at["end"] = time.time()

    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        train(config, model, tokens, Path(folder) / "run", progress=clock)
    counted = (steps - 1 - WARM_STEPS) * batch
    return at["begin"], at["end"], counted, at["warm"] - began
