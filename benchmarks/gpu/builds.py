"""Whole builds: one of the record-shaped model by stages, and CPU against GPU."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.measure import MEDIUM, TINY, Findings, Job
from benchmarks.gpu.models import save_checkpoint, save_shard
from golfpack.build.options import read_options
from golfpack.build.prepare import CALIB_LENGTH, HELD_OUT
from golfpack.build.run import build

# What a build within a contest's ten minutes may take, in seconds.
MOST_SECONDS = 60.0


class Stopwatch:
    """A notify callback that charges the time between calls to the stage that called first.

    It prints each stage as another one begins: a build cut off still tells how far it came.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.stage, self.since = "start", time.perf_counter()
        self.began = self.entered = self.since

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Charge what has passed to the stage before."""
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        if stage != self.stage:
            taken = f"{now - self.entered:6.1f} s {self.stage}"
            print(f"  [{now - self.began:5.1f} s] {taken}", flush=True)
            self.entered = now
        self.stage, self.since = stage, now


def full_build(job: Job, found: Findings) -> None:
    """A full rd build at 16 MB, with the compilation of kernels."""
    config = job.model
    calib = job.pick(32768, 256)
    with tempfile.TemporaryDirectory() as folder:
        path, shard = Path(folder) / "random.pt", Path(folder) / "train.bin"
        save_checkpoint(config, path)
        save_shard(job, config["vocab_size"], calib + (HELD_OUT + 1) * CALIB_LENGTH, shard)
        watch = Stopwatch()
        began = time.perf_counter()
        report = build(
            read_options({
                "checkpoint": path, "budget": "10bpw" if job.smoke else "16MB",
                "output": Path(folder) / "x.golf", "calib": str(shard), "calib_tokens": calib,
                "threads": job.threads, "cache": False, "device": job.device, "batched": True,
            }),
            watch,
        )  # fmt: skip
        watch("end", 0, 0, "")
        total = time.perf_counter() - began
        found.figure(
            "build, whole", total, "s",
            stages=report.seconds, passes=dict(watch.seconds), trace=report.trace,
            measured_kl=report.measured_kl, warnings=report.warnings,
        )  # fmt: skip
        for stage, seconds in report.seconds.items():
            found.figure(f"build: {stage}", seconds, "s")
        for name, seconds in watch.seconds.items():
            if seconds > 0.1:
                found.figure(f"build, pass {name}", seconds, "s")
        found.figure("rounds", len(report.trace), "")
        found.figure("artifact", report.artifact_bytes, "bytes", budget=report.budget_bytes)
        found.figure("peak memory", report.peak_memory_bytes, "bytes")
        if not job.smoke:
            found.check("build: seconds", total, MOST_SECONDS)


def agreement(job: Job, found: Findings) -> None:
    """CPU and device builds of one checkpoint: nearly the same KL, and both decode the same on both."""
    with tempfile.TemporaryDirectory() as folder:
        kls = _on_both(job, found, Path(folder), "KL", {})
    found.check("KL of the device's build over the CPU's, less 1", abs(kls[1] / kls[0] - 1), 0.02)


def refined(job: Job, found: Findings) -> None:
    """The same with codes trained by KL and on labels. A run in another order ends elsewhere."""
    tokens = job.pick(32768, 256)
    for on in ("kl", "labels"):
        with tempfile.TemporaryDirectory() as folder:
            options = {"refine": tokens, "refine_on": on}
            kls = _on_both(job, found, Path(folder), f"KL, codes trained by {on}", options)
        name = f"KL of the device's build over the CPU's, less 1, codes trained by {on}"
        found.check(name, abs(kls[1] / kls[0] - 1), 0.05)


def _on_both(
    job: Job, found: Findings, folder: Path, name: str, options: Mapping[str, Any]
) -> list[float]:
    """KL of a build on the CPU and of one on the device."""
    config = TINY if job.smoke else MEDIUM
    calib = job.pick(16384, 256)
    path, shard = job.checkpoint, job.calib
    if path is None or shard is None:
        path = folder / "random.pt"
        save_checkpoint(config, path)
        count = calib + (HELD_OUT + 1) * CALIB_LENGTH
        shard = str(save_shard(job, config["vocab_size"], count, folder / "train.bin"))
    kls = []
    for where, device, batched in (("CPU", "cpu", False), ("device", job.device, True)):
        output = folder / f"{where}.golf"
        began = time.perf_counter()
        report = build(
            read_options({
                "checkpoint": path, "budget": "10bpw" if job.smoke else "3bpw", "output": output,
                "calib": shard, "calib_tokens": calib, "threads": job.threads, "cache": False,
                "device": device, "batched": batched, **options,
            })
        )  # fmt: skip
        kls.append(report.measured_kl or 0.0)
        found.figure(
            f"{name}, built on the {where}", kls[-1], "nats/token",
            seconds=time.perf_counter() - began, sha256=report.artifact_sha256,
            predicted_kl=report.predicted_kl, bytes=report.artifact_bytes, stages=report.seconds,
        )  # fmt: skip
    return kls
