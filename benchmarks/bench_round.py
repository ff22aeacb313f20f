"""Rounding with two-sided feedback, greedy and by list search: seconds, and what the search gains.

    python benchmarks/bench_round.py [--shapes 512x512 2048x512 512x2048] [--survivors 1 8 16 t1 t4]

Random matrices whose inputs and output gradients correlate, with the rd optimum's steps at about one bit
a weight; one thread. "t4" is codes of eight states with four survivors each, on steps 7/8 octave larger.
Cost is tr(B E H E^T) over that of the first line of its shape, bits are those of the coder. Seconds are
the least of three runs, the first call's compilation left out.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from golfpack.packer.format.rans.codes import encode_codes
from golfpack.packer.format.steps import log_steps
from golfpack.packer.format.tensors import QTensor, States
from golfpack.packer.format.trellis import path_order
from golfpack.packer.quantize.gptq import factorize, round_feedback
from golfpack.packer.quantize.listsearch import scales_of

DAMP, ROW_DAMP, RATE_WEIGHT = 0.01, 0.1, 0.05
TRELLIS_LOGS = 28  # of 32 to the octave
RUNS = 3


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size), correlated, of unequal scales."""
    mixing = rng.standard_normal((size, size)) / np.sqrt(size) + 0.3 * np.eye(size)
    x = rng.standard_normal((2 * size, size)) @ mixing * np.exp(rng.standard_normal(size))
    return x.T @ x / len(x)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["512x512", "2048x512", "512x2048"])
    parser.add_argument("--survivors", nargs="+", default=["1", "8", "16", "t1", "t4"])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| shape | survivors | seconds | ns a weight | cost | bits a weight |")
    print("|---|---|---|---|---|---|")
    for shape in args.shapes:
        rows, cols = map(int, shape.split("x"))
        h, b = covariance(rng, cols), covariance(rng, rows)
        w = rng.standard_normal((rows, cols)).astype(np.float32)
        plain, row_factor = factorize(h, damp=DAMP), factorize(b, damp=ROW_DAMP)
        by_row, by_col = row_factor.diagonal(), plain.diagonal()
        # The dial at which the codes' mean square is one.
        dial = np.sqrt(np.mean(by_row**-2.0) * np.mean(by_col**-2.0))
        scalar = log_steps(dial * by_row, by_col)
        by_steps = factorize(h, damp=DAMP, order=path_order(scalar.col_log))
        first = None
        for told in args.survivors:
            trellis, survivors = told.startswith("t"), int(told.removeprefix("t"))
            weight = RATE_WEIGHT if trellis or survivors > 1 else 0.0
            steps, factor = scalar, plain
            if trellis:
                steps = replace(scalar, row_log=scalar.row_log + TRELLIS_LOGS)
                factor = by_steps
            seconds, codes = [], np.empty(0)
            for _ in range(RUNS + 1):
                began = time.perf_counter()
                states = States(scales_of(w, steps)) if trellis else None
                codes = round_feedback(
                    w, steps, factor, None, row_factor, weight, survivors, states
                )
                seconds.append(time.perf_counter() - began)
            found = QTensor(codes, steps, states=states)
            error = w - found.dequantize()
            scales = [None if states is None else states.scales]
            bits = 8 * len(encode_codes([codes], [found.known], scales=scales)) / w.size
            cost = float(np.vdot(b, (error @ h) @ error.T))
            first = cost if first is None else first
            least = min(seconds[1:])
            print(
                f"| {shape} | {told} | {least:.3f} | {least / w.size * 1e9:.0f} | "
                f"{cost / first:.3f} | {bits:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
