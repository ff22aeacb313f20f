"""Mixed precision against every single bit width at the same budget.

    python benchmarks/bench_mix.py CKPT --calib TRAIN.bin [--budget 3.4bpw ...]

For each budget: the best of int4 to int8 alone (SDClip, k bisected to the budget) and the mixture that
the pass `mix` chooses, as real files under our own coder: bytes, H-weighted error (expected KL by the
quadratic model), KL on held-out calibration tokens; and how the Lagrangian choice compares with the
integer program's.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from golfpack.base.progress import silent
from golfpack.base.sizes import parse_size
from golfpack.build.options import read_options
from golfpack.build.prepare import prepare, read_model
from golfpack.packer.aim import Budget
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.mix import Mix
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.search import Search, fit_bytes
from golfpack.packer.state import PackState, run_passes

WIDTHS = (4, 5, 6, 7, 8)
SEARCH, ROUND = Search(tolerance=0.001), (Steps(), Round(), Encode())


def fitted(ready: PackState) -> PackState:
    """The artifact within the state's limit."""
    assert ready.limit is not None
    return fit_bytes(SEARCH, ROUND, ready, Budget(ready.limit))


def policy(bits: int) -> Policy:
    """One width for every matrix."""
    return Policy((
        {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
        {"scheme": "int", "bits": bits, "clip": {"id": "sd", "k": 12.85}},
    ))  # fmt: skip


def measured(done: PackState) -> tuple[int, float, float]:
    """Bytes, H-weighted error, KL."""
    error = sum(
        done.sensitivity[n].kl(t.dequantize() - done.matrix(n))
        for n, t in done.tensors.items()
        if isinstance(t, QTensor)
    )
    assert done.blob is not None
    assert done.measure is not None
    return len(done.blob), error, done.measure(done.tensors)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--budget", action="append")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    options = read_options(
        {"checkpoint": args.checkpoint, "calib": args.calib, "threads": args.threads}
    )
    checkpoint, recipe = read_model(options)
    state = prepare(checkpoint, recipe, options, silent).state(0, silent)
    print("| budget | plan | bytes | H-weighted error | KL |")
    print("|---|---|---:|---:|---:|")
    sensed = run_passes([policy(6), Sense()], state)
    for text in args.budget or ["4bpw", "3.4bpw", "2.9bpw"]:
        ready = replace(sensed, limit=parse_size(text, checkpoint.spec.numel))
        for bits in WIDTHS:
            done = fitted(run_passes([policy(bits), Clip()], ready))
            size, error, kl = measured(done)
            print(f"| {text} | int{bits} | {size:,} | {error:.6f} | {kl:.6f} |", flush=True)
        done = fitted(run_passes([Mix(WIDTHS), Clip()], ready))
        size, error, kl = measured(done)
        a = done.allocation
        assert a is not None
        counts = ", ".join(
            f"{list(a.widths.values()).count(b)} int{b}" for b in WIDTHS if b in a.widths.values()
        )
        print(f"| {text} | mixed: {counts} | {size:,} | {error:.6f} | {kl:.6f} |", flush=True)
        print(
            f"<!-- {text}: Lagrangian {a.lagrangian[1]:.6g}, exact {a.exact[1]:.6g}: "
            f"ratio to exact {a.lagrangian[1] / a.exact[1]:.5f} -->",
            flush=True,
        )


if __name__ == "__main__":
    main()
