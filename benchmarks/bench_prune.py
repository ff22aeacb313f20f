"""Ways to make a file a little smaller: +-1 codes by price or by step, small weights, larger steps.

    python benchmarks/bench_prune.py CKPT --calib TRAIN.bin [--k 12.85]

GPTQ with SDClip at a fixed k under LZMA-9, and then 0.5, 1, 2 and 4% less: by `prune_ones`; by zeroing
the +-1 codes with the smallest steps (the records' price); by zeroing the smallest weights before
quantizing, the least share that gets there; and by a larger k alone. Real files; KL on held-out
calibration tokens.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from golfpack.base.progress import silent
from golfpack.build.options import read_options
from golfpack.build.prepare import prepare, read_model
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.prune import PruneMagnitude, PruneOnes
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.state import PackState, run_passes

CUTS = (0.005, 0.01, 0.02, 0.04)
ENCODE = Encode(codec="lzma", side_codec="lzma")


def policy(k: float) -> Policy:
    """GPTQ's usual int6 with an int8 embedding; clips stay where they are."""
    return Policy((
        {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
        {"roles": ["embed", "head"], "scheme": "int", "bits": 8,
         "clip": {"id": "sd", "k": 20 * k / 12.85}, "auto": False},
        {"scheme": "int", "bits": 6, "clip": {"id": "sd", "k": k}, "auto": False},
    ))  # fmt: skip


def rounded(state: PackState, k: float, share: float = 0.0) -> PackState:
    """Codes of a plan, with or without magnitude pruning before it."""
    prune = [PruneMagnitude(share=share)] if share else []
    passes = [policy(k), *prune, Sense(order="falling"), Clip(), Steps(), Round(), ENCODE]
    return run_passes(passes, state)


def by_step(state: PackState, count: int) -> PackState:
    """The `count` +-1 codes of the smallest steps set to zero."""
    parts = []
    for name, t in state.tensors.items():
        if isinstance(t, QTensor):
            position = np.flatnonzero(np.abs(t.codes) == 1)
            parts.append((name, position, np.abs(t.dequantize()).reshape(-1)[position]))
    cut = np.sort(np.concatenate([v for _, _, v in parts]))[count]
    tensors = dict(state.tensors)
    for name, position, value in parts:
        t = tensors[name]
        assert isinstance(t, QTensor)
        codes = t.codes.copy()
        codes.reshape(-1)[position[value < cut]] = 0
        tensors[name] = replace(t, codes=codes)
    return run_passes([ENCODE], replace(state, tensors=tensors))


def size(state: PackState) -> int:
    """Bytes of the artifact."""
    assert state.blob is not None
    return len(state.blob)


def bisected(make: Callable[[float], PackState], low: float, high: float, budget: int) -> PackState:
    """`make` at the least argument whose file fits, to one part in 500 of the range."""
    best = make(high)
    if size(best) > budget:
        raise SystemExit(f"not even {high} gives {budget:,} bytes: {size(best):,}")
    for _ in range(9):
        middle = (low + high) / 2
        done = make(middle)
        if size(done) <= budget:
            best, high = done, middle
        else:
            low = middle
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--k", type=float, default=12.85)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    options = read_options({
        "checkpoint": args.checkpoint, "recipe": "sdclip-brotli", "calib": args.calib,
        "threads": args.threads,
    })  # fmt: skip
    checkpoint, recipe = read_model(options)
    state = prepare(checkpoint, recipe, options, silent).state(0, silent)
    whole = rounded(state, args.k)
    assert whole.measure is not None
    ones = sum(
        int(np.count_nonzero(np.abs(t.codes) == 1))
        for t in whole.tensors.values()
        if isinstance(t, QTensor)
    )
    print("| cut | way | bytes | of the target | KL | added KL |")
    print("|---|---|---:|---:|---:|---:|")
    base = whole.measure(whole.tensors)
    print(f"| 0 | whole, k={args.k:g} | {size(whole):,} | | {base:.6f} | |")
    for cut in CUTS:
        budget = int((1 - cut) * size(whole))
        ready = replace(whole, limit=budget)
        ways: dict[str, Callable[[], PackState]] = {
            "prune_ones": lambda r=ready: run_passes([ENCODE, PruneOnes(most=1.0)], r),
            "+-1 by step": lambda b=budget: bisected(
                lambda x: by_step(whole, int(x)), 0, ones - 1, b
            ),
            "magnitude": lambda b=budget: bisected(
                lambda x: rounded(state, args.k, x), 0.001, 0.6, b
            ),
            "larger k": lambda b=budget: bisected(
                lambda x: rounded(state, x), args.k, 1.4 * args.k, b
            ),
        }
        for way, run in ways.items():
            try:
                done = run()
            except SystemExit as e:
                print(f"| {cut:.1%} | {way} | {e} | | | |", flush=True)
                continue
            kl = whole.measure(done.tensors)
            print(
                f"| {cut:.1%} | {way} | {size(done):,} | {size(done) / budget:.2%} | {kl:.6f} | "
                f"{kl - base:+.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
