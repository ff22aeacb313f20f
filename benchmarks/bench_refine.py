"""What --refine, or an option of the recipe, is worth on text of two domains.

    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --budgets 2.5bpw --refine 0 auto 200000 --foreign OTHER.txt
    python benchmarks/bench_refine.py CKPT --halves TEXT --tokenizer MODEL --budgets 3.5bpw
        --refine 0 2400000 --calib-tokens 53000
    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --refine auto --refine-on kl labels --seeds 0 1 2
    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --refine 0 --variant search.in_sequence=false --variant "" --foreign OTHER.txt

    python benchmarks/bench_refine.py CKPT --calib SHARD --tokens VAL_SHARD --tokenizer MODEL
        --budgets 1.2bpw --refine 98304 --price 0 1 2

A variant is what `--set` takes, several settings joined by a space; "" is the recipe as it is. A price
is that of a bit while codes are trained, see docs/recipes.md.
--halves calibrates on the first half of a text's documents and scores the second. --foreign scores a
text of another domain as well. One line per build: bytes, KL to the float model (nats per token) and
the rise of the cross entropy with its standard error over sequences, on validation text, on the
foreign one and on what the model wrote; seconds of training, and of the rest of the build.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from golfpack import build
from golfpack.build import refine as refine_module
from golfpack.build.losses import text_loss
from golfpack.build.report import TextLoss
from golfpack.data.stream import read_stream
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import load_tokenizer
from golfpack.eval.divergence import text_losses
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.loader import load


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib")
    parser.add_argument("--calib-tokens", type=int, default=32_768)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--tokens")
    given.add_argument("--halves", type=Path)
    parser.add_argument("--foreign")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--budgets", nargs="+", default=["2.5bpw"])
    parser.add_argument("--refine", nargs="+", default=["0", "auto"])
    parser.add_argument("--refine-on", nargs="+", default=["kl"], choices=["kl", "labels"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipe", default="rd")
    parser.add_argument("--variant", action="append")
    parser.add_argument(
        "--price", nargs="+", type=float,
        help="of a bit while codes are trained, in what it is worth by theory; 0: bits for nothing",
    )  # fmt: skip
    parser.add_argument("--score-tokens", type=int, default=16_384)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.halves is not None:
            args.calib, args.tokens = halves(args.halves, Path(folder))
        table(args, Path(folder) / "x.golf")


def halves(text: Path, folder: Path) -> tuple[str, str]:
    """Files of the first and the second half of a text's documents."""
    documents = list(read_documents([text]))
    middle = len(documents) // 2
    paths = (folder / "first.txt", folder / "second.txt")
    for path, part in zip(paths, (documents[:middle], documents[middle:]), strict=True):
        path.write_text("<|endoftext|>".join(part), encoding="utf-8")
    return str(paths[0]), str(paths[1])


def table(args: argparse.Namespace, output: Path) -> None:
    """Print the table."""
    c = load_checkpoint(args.checkpoint)
    reference, tokenizer = c.module(), load_tokenizer(args.tokenizer)
    texts = {}
    for name, path in (("validation", args.tokens), ("foreign", args.foreign)):
        if path is not None:
            stream = read_stream(path, tokenizer, args.score_tokens)
            whole = stream[: len(stream) // args.window * args.window]
            texts[name] = whole.reshape(-1, args.window).astype(np.int64)
    usual = refine_module.PRICE
    asked = [
        (variant, price, refine, on, seed)
        for variant in args.variant or [""]
        for price in args.price or [None]
        for refine in args.refine
        for on in args.refine_on
        for seed in args.seeds
    ]
    columns = [*texts, *(["own"] if c.family.asked_only is False else [])]
    print(
        "| variant | budget | refine | on | seed | tokens | bytes |"
        + "".join(f" KL, {t} | cross entropy, {t} |" for t in columns)
        + " training, rest, s |"
    )
    print("|---" * (8 + 2 * len(columns)) + "|")
    for budget in args.budgets:
        for variant, price, refine, on, seed in asked:
            trains = refine != "0"
            refine_module.PRICE = usual if price is None else dict.fromkeys(usual, price)
            report = build(
                args.checkpoint, budget=budget, output=output, recipe=args.recipe, seed=seed,
                calib=args.calib, calib_tokens=args.calib_tokens, tokenizer=args.tokenizer,
                threads=args.threads, refine=refine if refine == "auto" else int(refine),
                refine_on=on if trains else "kl", settings=variant.split(),
            )  # fmt: skip
            model = c.module(load(output).weights())
            found = [
                text_loss(
                    "held out", text_losses(reference, model, rows, args.threads), args.window
                )
                for rows in texts.values()
            ]
            found += [x for x in report.losses if x.text == "own"]
            training = report.seconds.get("refine", 0.0)
            tokens = 0 if report.refined is None else report.refined.tokens
            print(
                f"| {_label(variant, price)} | {budget} | {refine} | {on if trains else ''} | {seed} "
                f"| {tokens:,} | {report.artifact_bytes:,} | {' | '.join(map(told, found))} "
                f"| {training:.0f}, {sum(report.seconds.values()) - training:.0f} |",
                flush=True,
            )


def _label(variant: str, price: float | None) -> str:
    return f"{variant or 'as it is'}{'' if price is None else f', price {price:g}'}"


def told(x: TextLoss) -> str:
    """Two cells."""
    return f"{x.kl:.5f} | {x.ce_rise:+.5f} ± {x.ce_rise_error:.5f}"


if __name__ == "__main__":
    main()
