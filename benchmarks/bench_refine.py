"""What training the codes is worth: builds with and without --refine at several budgets.

    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --budgets 2.5bpw 3.4bpw --refine 0 200000 800000

One line per build: bytes, KL to the float model on held-out calibration tokens and on validation
tokens, quant gap there, and the seconds of training.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

from golfpack.api.build import build
from golfpack.api.prepare import BuildOptions
from golfpack.data.shards import read_tokens
from golfpack.data.tokenizer import load_tokenizer
from golfpack.eval.bytes import ByteTable
from golfpack.eval.divergence import mean_kl
from golfpack.models.checkpoint import build_model, load_checkpoint
from golfpack.packer.loader import load
from golfpack.train.run import validation_loss

WINDOW = 512


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib")
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--budgets", nargs="+", default=["2.5bpw", "3.4bpw"])
    parser.add_argument("--refine", nargs="+", type=int, default=[0, 200_000])
    parser.add_argument("--recipe", default="rd")
    parser.add_argument("--score-tokens", type=int, default=16_385)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    c = load_checkpoint(args.checkpoint)
    reference = build_model(c.family, c.config, c.weights)
    stream = read_tokens(args.tokens, args.score_tokens)
    rows = stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW).astype(np.int64)
    table = ByteTable.from_tokenizer(load_tokenizer(args.tokenizer), c.config["vocab_size"])
    per_byte = float(np.mean(table.count(stream))) * math.log(2)
    before = validation_loss(reference, stream, WINDOW, 8)
    print("| budget | refine | bytes | KL, calibration | KL, validation | quant gap | seconds |")
    print("|---|---|---|---|---|---|---|")
    for budget in args.budgets:
        for tokens in args.refine:
            with tempfile.TemporaryDirectory() as folder:
                report = build(
                    BuildOptions(
                        args.checkpoint, budget, Path(folder) / "x.golf", recipe=args.recipe,
                        calib=args.calib, threads=args.threads, refine=tokens,
                    )
                )  # fmt: skip
                a = load(Path(folder) / "x.golf")
            model = build_model(a.family, a.config, a.weights())
            kl = mean_kl(reference, model, rows, args.threads)
            gap = (validation_loss(model, stream, WINDOW, 8) - before) / per_byte
            print(
                f"| {budget} | {tokens:,} | {report.artifact_bytes:,} | {report.measured_kl:.5f} "
                f"| {kl:.5f} | {gap:+.5f} | {report.seconds.get('refine', 0.0):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
