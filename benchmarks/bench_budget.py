"""How the budget search does on random budgets: never a byte over, and how little it leaves over.

    python benchmarks/bench_budget.py CKPT ... --calib SHARD [--count 40] [--seed 0]

Every checkpoint is calibrated and sensed once; then it is fitted for real to each budget, log-uniform
between 1.2 and 8 bits per parameter. The size counted is that of the bytes it made, which the loader
must decode again. Exits 1 when an artifact is over its budget, or leaves more than the recipe's
tolerance (0.02% of the budget or 64 bytes) unused. Seconds depend on the machine.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np

from golfpack.base.progress import silent
from golfpack.build.options import BuildOptions, read_options
from golfpack.build.pack import Target, in_sequence, searched
from golfpack.build.prepare import Prepared, prepare, read_model
from golfpack.packer.aim import Budget
from golfpack.packer.format.loader import loads

LOWEST_BPW, HIGHEST_BPW = 1.2, 8.0


@dataclass(frozen=True)
class Build:
    """One budget and what came of it."""

    budget: int
    size: int
    rounds: int
    seconds: float
    tolerance: int

    @property
    def headroom(self) -> int:
        """Unused bytes; negative when the artifact is over its budget."""
        return self.budget - self.size


def prepared_for(options: BuildOptions) -> Prepared:
    """The checkpoint, calibrated."""
    model, recipe = read_model(options)
    return prepare(model, recipe, options, silent)


def random_budgets(numel: int, count: int, seed: int) -> list[int]:
    """Bytes, log-uniform in bits per parameter."""
    rng = np.random.default_rng(seed)
    bits = np.exp(rng.uniform(np.log(LOWEST_BPW), np.log(HIGHEST_BPW), count))
    return [int(b * numel / 8) for b in bits]


def builds(prepared: Prepared, budgets: list[int]) -> Iterator[Build]:
    """One real build per budget."""
    state, recipe = prepared.ready(1, silent), prepared.recipe
    for budget in budgets:
        began = time.perf_counter()
        at = replace(state, limit=budget)
        target = Target(Budget(budget))
        done = in_sequence(prepared, at, searched(prepared, at, target), target).state
        seconds = time.perf_counter() - began
        assert done.blob is not None
        size = loads(done.blob).container.size
        yield Build(budget, size, len(done.trace), seconds, recipe.search.enough(budget))


def show(path: Path, numel: int, results: list[Build]) -> bool:
    """Print a checkpoint's summary; returns whether every build kept budget and tolerance."""
    over = [b for b in results if b.headroom < 0]
    wide = [b for b in results if b.headroom > b.tolerance]
    rooms = [b.headroom for b in results]
    shares = [b.headroom / b.budget for b in results]
    rounds = [b.rounds for b in results]
    seconds = [b.seconds for b in results]
    print(f"{path}: {numel:,} parameters, {len(results)} budgets")
    print(f"  over budget       {len(over)}")
    print(f"  headroom, bytes   median {median(rooms):,.0f}, max {max(rooms):,}")
    print(f"  headroom, share   median {median(shares):.4%}, max {max(shares):.4%}")
    print(f"  within tolerance  {1 - (len(over) + len(wide)) / len(results):.1%}")
    print(f"  rounds            mean {mean(rounds):.1f}, max {max(rounds)}")
    print(f"  seconds a build   median {median(seconds):.1f}, max {max(seconds):.1f}")
    return not over and not wide


def main() -> None:
    """Print a line per build and a summary per checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CKPT")
    parser.add_argument("--calib", required=True, help="token shard, or a glob of shards")
    parser.add_argument("--recipe", default="rd")
    parser.add_argument("--count", type=int, default=40, help="budgets per checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the budgets")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    good = True
    for path in args.checkpoints:
        options = read_options({
            "checkpoint": path, "recipe": args.recipe, "calib": args.calib, "threads": args.threads,
        })  # fmt: skip
        prepared = prepared_for(options)
        numel, results = prepared.model.spec.numel, []
        for b in builds(prepared, random_budgets(numel, args.count, args.seed)):
            print(
                f"{8 * b.budget / numel:5.2f} bits/parameter  budget {b.budget:>10,}  artifact "
                f"{b.size:>10,}  headroom {b.headroom:>6,}  rounds {b.rounds:>2}  {b.seconds:5.1f} s",
                flush=True,
            )
            results.append(b)
        good &= show(path, numel, results)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
