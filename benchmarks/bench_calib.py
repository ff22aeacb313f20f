"""How many calibration tokens it takes: KL on other text at one budget, for growing token counts.

    python benchmarks/bench_calib.py CKPT --calib SHARD --tokens VAL_SHARD [--budget 3bpw]

Prints one row per count: predicted and measured KL on held-out calibration tokens, and KL on the
validation tokens. The default of `golfpack build` (32,768) was chosen where the last column stops
falling.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from golfpack import build
from golfpack.data.shards import read_tokens
from golfpack.eval.divergence import mean_kl
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.loader import load

WINDOW = 512


def main() -> None:
    """Build once per token count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--budget", default="3bpw")
    parser.add_argument("--counts", type=int, nargs="+", default=[4096, 8192, 16384, 32768, 65536])
    parser.add_argument("--kl-tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    reference = checkpoint.module()
    stream = read_tokens(args.tokens, args.kl_tokens).astype(np.int64)
    sequences = stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW)
    print("| calibration tokens | bytes | predicted KL | measured KL | validation KL | seconds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in args.counts:
            output = Path(folder) / f"{count}.golf"
            report = build(
                args.checkpoint, budget=args.budget, output=output, calib=args.calib,
                calib_tokens=count, threads=args.threads, cache=False,
            )  # fmt: skip
            artifact = load(output)
            model = checkpoint.module(artifact.weights())
            kl = mean_kl(reference, model, sequences, args.threads)
            print(
                f"| {count:,} | {report.artifact_bytes:,} | {report.predicted_kl:.5f} "
                f"| {report.measured_kl:.5f} | {kl:.5f} | {report.seconds['calibrate']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
