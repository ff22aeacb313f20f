"""What training the codes is worth: builds with and without --refine at several budgets.

    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --budgets 2.5bpw 3.4bpw --refine 0 200000 800000
    python benchmarks/bench_refine.py CKPT --halves TEXT --tokenizer MODEL --budgets 3.5bpw
        --refine 0 2400000 --calib-tokens 53000

--halves calibrates on the first half of a text's documents and scores the second. One line per build:
bytes, KL to the float model on held-out calibration tokens and on validation tokens, quant gap there,
and the seconds of training.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

from golfpack import build
from golfpack.data.stream import read_stream
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import load_tokenizer
from golfpack.eval.bytes import ByteTable
from golfpack.eval.divergence import mean_kl
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.loader import load
from golfpack.train.loss import validation_loss


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib")
    parser.add_argument("--calib-tokens", type=int, default=32_768)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--tokens")
    given.add_argument("--halves", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--budgets", nargs="+", default=["2.5bpw", "3.4bpw"])
    parser.add_argument("--refine", nargs="+", type=int, default=[0, 200_000])
    parser.add_argument("--recipe", default="rd")
    parser.add_argument("--score-tokens", type=int, default=16_385)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.halves is not None:
            args.calib, args.tokens = halves(args.halves, Path(folder))
        table(args)


def halves(text: Path, folder: Path) -> tuple[str, str]:
    """Files of the first and the second half of a text's documents."""
    documents = list(read_documents([text]))
    middle = len(documents) // 2
    paths = (folder / "first.txt", folder / "second.txt")
    for path, part in zip(paths, (documents[:middle], documents[middle:]), strict=True):
        path.write_text("<|endoftext|>".join(part), encoding="utf-8")
    return str(paths[0]), str(paths[1])


def table(args: argparse.Namespace) -> None:
    """Print the table."""
    c = load_checkpoint(args.checkpoint)
    reference = c.module()
    tokenizer, window = load_tokenizer(args.tokenizer), args.window
    stream = read_stream(args.tokens, tokenizer, args.score_tokens)
    rows = stream[: len(stream) // window * window].reshape(-1, window).astype(np.int64)
    lengths = ByteTable.from_tokenizer(tokenizer, c.config["vocab_size"])
    per_byte = float(np.mean(lengths.count(stream))) * math.log(2)
    before = validation_loss(reference, stream, window, 8)
    print("| budget | refine | bytes | KL, calibration | KL, validation | quant gap | seconds |")
    print("|---|---|---|---|---|---|---|")
    for budget in args.budgets:
        for tokens in args.refine:
            with tempfile.TemporaryDirectory() as folder:
                report = build(
                    args.checkpoint, budget=budget, output=Path(folder) / "x.golf",
                    recipe=args.recipe, calib=args.calib, calib_tokens=args.calib_tokens,
                    tokenizer=args.tokenizer, threads=args.threads, refine=tokens,
                )  # fmt: skip
                a = load(Path(folder) / "x.golf")
            model = c.module(a.weights())
            kl = mean_kl(reference, model, rows, args.threads)
            gap = (validation_loss(model, stream, window, 8) - before) / per_byte
            print(
                f"| {budget} | {tokens:,} | {report.artifact_bytes:,} | {report.measured_kl:.5f} "
                f"| {kl:.5f} | {gap:+.5f} | {report.seconds.get('refine', 0.0):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
