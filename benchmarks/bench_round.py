"""Rounding with two-sided feedback, greedy and by list search: seconds, and what the search gains.

    python benchmarks/bench_round.py [--shapes 512x512 2048x512 512x2048] [--survivors 1 8 16]

Random matrices whose inputs and output gradients correlate, with the rd optimum's steps at about one bit
a weight; one thread. Cost is tr(B E H E^T) over that of the first line of its shape, bits are order-0
entropy. Seconds are the least of three runs, the first call's compilation left out.
"""

import argparse
import time

import numpy as np

from golfpack.packer.format.steps import log_steps
from golfpack.packer.quantize.gptq import factorize, round_feedback
from golfpack.packer.rate import entropy

DAMP, ROW_DAMP, RATE_WEIGHT = 0.01, 0.1, 0.05
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
    parser.add_argument("--survivors", nargs="+", type=int, default=[1, 8, 16])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| shape | survivors | seconds | ns a weight | cost | bits a weight |")
    print("|---|---|---|---|---|---|")
    for shape in args.shapes:
        rows, cols = map(int, shape.split("x"))
        h, b = covariance(rng, cols), covariance(rng, rows)
        w = rng.standard_normal((rows, cols)).astype(np.float32)
        factor, row_factor = factorize(h, damp=DAMP), factorize(b, damp=ROW_DAMP)
        by_row, by_col = row_factor.diagonal(), factor.diagonal()
        # The dial at which the codes' mean square is one.
        dial = np.sqrt(np.mean(by_row**-2.0) * np.mean(by_col**-2.0))
        steps = log_steps(dial * by_row, by_col)
        first = None
        for survivors in args.survivors:
            weight = RATE_WEIGHT if survivors > 1 else 0.0
            seconds, codes = [], np.empty(0)
            for _ in range(RUNS + 1):
                began = time.perf_counter()
                codes = round_feedback(w, steps, factor, None, row_factor, weight, survivors)
                seconds.append(time.perf_counter() - began)
            error = w - codes * (steps.row[:, None] * np.asarray(steps.col))
            cost = float(np.vdot(b, (error @ h) @ error.T))
            first = cost if first is None else first
            least = min(seconds[1:])
            print(
                f"| {shape} | {survivors} | {least:.3f} | {least / w.size * 1e9:.0f} | "
                f"{cost / first:.3f} | {entropy(codes):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
