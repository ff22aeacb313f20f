"""Where the time and memory of a build go, on a random checkpoint of a record's shape.

    python benchmarks/bench_build.py [--shape 04-05] [--budget 16MB] [--calib-tokens 65536] [--threads 2]
        [--recipe rd sdclip-brotli]

The weights are random (what they say does not matter here) and so are the calibration tokens. Prints
seconds per stage and per pass, the peak resident memory of the process until then, and the size reached,
for every recipe in turn.
"""

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from golfpack import build
from golfpack.data.shards import write_shard
from golfpack.models.golf.family import GOLF

# The record of 2026-04-05 without its skip gates: 11 layers of 512, MLP 4x, vocabulary 8192.
SHAPES = {
    "04-05": {"vocab_size": 8192, "num_layers": 11, "dim": 512, "mlp_hidden": 2048},
    "baseline": {"vocab_size": 1024, "num_layers": 9, "dim": 512, "mlp_hidden": 1024},
    "small": {"vocab_size": 1024, "num_layers": 6, "dim": 256, "mlp_hidden": 768},
}


class Stopwatch:
    """A notify callback that charges the time between calls to the stage that called first."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.stage, self.since = "start", time.perf_counter()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Charge what has passed to the stage before."""
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now


def random_checkpoint(shape: dict[str, int], path: Path) -> int:
    """Write a state dict with weights of trained-looking size; returns its number of weights."""
    config = {**shape, "num_heads": 8, "num_kv_heads": 4}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for t in GOLF.spec(config).tensors:
        scale = 1.0 if t.role == "vector" else t.shape[-1] ** -0.5
        state[t.name] = scale * torch.randn(t.shape, generator=generator)
    torch.save(state, path)
    return sum(t.numel() for t in state.values())


def main() -> None:
    """Build once and print the profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="04-05")
    parser.add_argument("--budget", default="16MB")
    parser.add_argument("--calib-tokens", type=int, default=65536)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipe", nargs="+", default=["rd"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, shard = Path(folder) / "random.pt", Path(folder) / "tokens.bin"
        numel = random_checkpoint(SHAPES[args.shape], checkpoint)
        rng = np.random.default_rng(0)
        vocab = SHAPES[args.shape]["vocab_size"]
        write_shard(shard, rng.integers(0, vocab, args.calib_tokens + (1 << 13)))
        for recipe in args.recipe:
            watch = Stopwatch()
            report = build(
                checkpoint, budget=args.budget, output=Path(folder) / "x.golf", calib=str(shard),
                calib_tokens=args.calib_tokens, threads=args.threads, cache=False, notify=watch,
                recipe=recipe, force=True,
            )  # fmt: skip
            watch("end", 0, 0, "")
            print(
                f"{recipe}: {numel:,} weights, {report.artifact_bytes:,} of {report.budget_bytes:,} B"
            )
            for name, seconds in {**report.seconds, "total": sum(report.seconds.values())}.items():
                print(f"{name:12} {seconds:8.1f} s")
            passes = (f"{k} {v:.1f} s" for k, v in watch.seconds.items() if v > 0.05)
            print("by pass: " + ", ".join(passes))
    print(f"rounds {len(report.trace)}, sizes {[int(size) for _, size in report.trace]}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
