"""What each choice of a recipe is worth: variants of one recipe at several budgets, KL on other text.

    python benchmarks/bench_ablation.py CKPT --calib SHARD --tokens VAL_SHARD
        --variant "" --variant sense.two_sided=false --variant round.rate_weight=0.03

A variant is what `--set` takes, several settings joined by a space; "" is the recipe as it is, and
"recalibrate" is `--recalibrate`. Prints KL per budget and, against the first variant, the bytes that the
variant would need for the first one's KL (interpolated in log KL and log bytes).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from golfpack.build.options import BuildOptions, read_options
from golfpack.build.run import build
from golfpack.data.shards import read_tokens
from golfpack.eval.divergence import mean_kl
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.loader import load

WINDOW = 512


def curve(options: BuildOptions, budgets: list[str], sequences: np.ndarray) -> np.ndarray:
    """(budgets, 2): artifact bytes and KL to the float model of each budget's build."""
    c = load_checkpoint(options.inputs.checkpoint)
    reference = c.module()
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for budget in budgets:
            output = Path(folder) / "x.golf"
            report = build(options.changed(budget=budget, output=output))
            a = load(output)
            model = c.module(a.weights())
            kl = mean_kl(reference, model, sequences, options.machine.threads)
            points.append((report.artifact_bytes, kl))
    return np.array(points, np.float64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--recipe", default="rd")
    parser.add_argument("--budgets", nargs="+", default=["2bpw", "2.5bpw", "3bpw", "3.5bpw"])
    parser.add_argument("--kl-tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    stream = read_tokens(args.tokens, args.kl_tokens).astype(np.int64)
    sequences = stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW)
    print(f"| variant | {' | '.join(f'KL at {b}' for b in args.budgets)} | bytes at equal KL |")
    print("|---" * (len(args.budgets) + 2) + "|")
    first: np.ndarray | None = None
    for variant in args.variant:
        words = variant.split()
        table = {
            "checkpoint": args.checkpoint, "recipe": args.recipe, "calib": args.calib,
            "threads": args.threads, "recalibrate": "recalibrate" in words,
            "settings": tuple(w for w in words if w != "recalibrate"),
        }  # fmt: skip
        options = read_options(table)
        points = curve(options, args.budgets, sequences)
        first = points if first is None else first
        order = np.argsort(points[:, 1])
        inside = (first[:, 1] >= points[:, 1].min()) & (first[:, 1] <= points[:, 1].max())
        needed = np.interp(
            np.log(first[inside, 1]), np.log(points[order, 1]), np.log(points[order, 0])
        )
        ratio = np.exp(np.mean(needed - np.log(first[inside, 0])))
        kls = " | ".join(f"{kl:.5f}" for kl in points[:, 1])
        print(f"| {variant or 'as it is'} | {kls} | {ratio:.4f} |", flush=True)


if __name__ == "__main__":
    main()
