r"""Is the shape that `golfpack size` recommends as good as the best of a fine grid?

    python benchmarks/bench_size.py --out grid --budget 100kB --steps 200 --seeds 1 \
        --text books books_train.jsonl books_val.jsonl 512 [--texts books,python]

For each text: the default search, and its recommendation. Then every width of the range that it tried,
16 apart, with a block less than usual, as many, and one more (two at least), trained, built and scored
likewise; and where a table of token pairs is recommended, tables of a quarter to four times its rows and
half to twice its width, with and without triples, and that table with other blocks: one less to one
more, four fifths to five quarters as wide. The recommendation is held to the best shape of all, means
over seeds; exits with 1 where it is more than --within bits per byte worse. Cells are kept in --out and
reused.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from texts import Text, add_texts, read_texts

from golfpack.base.progress import silent
from golfpack.size.lab import Lab, open_lab
from golfpack.size.options import SizeOptions
from golfpack.size.report import SizeRun
from golfpack.size.shapes import between
from golfpack.size.size import size
from golfpack.train.shapes import Shape, read_shape
from golfpack.train.sources import DataOptions


def grid(lab: Lab, ladder: list[Shape]) -> list[Shape]:
    """Shapes of three depths a width, within the ladder's range of parameters."""
    low, high = (lab.parameters(s) for s in (ladder[0], ladder[-1]))
    usual = between(lab.parameters, ladder)
    found = {Shape(s.dim, s.layers + more) for s in usual for more in (-1, 0, 1)}
    deep = (s for s in found if s.layers > 1)
    return sorted((s for s in deep if low <= lab.parameters(s) <= high), key=lab.parameters)


def tables(best: Shape) -> set[Shape]:
    """Tables around that of a shape; none for one without."""
    return {
        Shape(best.dim, best.layers, round(best.rows * more), round(best.width * wider), triples)
        for more in (0.25, 0.5, 1, 2, 4)
        for wider in (0.5, 1, 2)
        for triples in (False, True)
        if best.rows and best.width * wider <= best.dim
    }


def beside(best: Shape) -> set[Shape]:
    """Other blocks with the table of a shape; none for one without."""
    return {
        replace(best, layers=best.layers + more, dim=round(best.dim * wider / 16) * 16)
        for more in (-1, 0, 1)
        for wider in (0.8, 1, 1.25)
        if best.rows and best.layers + more > 1 and best.width <= round(best.dim * wider / 16) * 16
    }


def tell(run: SizeRun) -> None:
    """A line of progress."""
    bpb = "refused" if run.artifact_bpb is None else f"{run.artifact_bpb:.4f}"
    rate = run.tokens_per_second or 0.0
    print(
        f"  {run.shape} seed {run.seed}: {run.parameters:,}, float {run.float_bpb:.4f}, artifact {bpb}, "
        f"{rate:,.0f} tokens/s",
        flush=True,
    )


def one(text: Text, args: argparse.Namespace) -> float:
    """How much worse the recommendation is than the grid's best; prints a table."""
    options = SizeOptions(
        budget=args.budget,
        data=DataOptions(tokens=text.train, val_tokens=text.held_out, tokenizer=text.tokenizer),
        steps=args.steps, seeds=args.seeds, settings=tuple(args.set), calib_tokens=args.calib_tokens,
        limit=args.limit, out=args.out / text.name, threads=1, device="cpu",
    )  # fmt: skip
    print(f"{text.name}: the ladder", flush=True)
    found = size(options, silent, tell)
    print("\n".join(found.says), flush=True)
    lab = open_lab(options, silent)
    tried = [read_shape(r.shape) for r in found.rows]
    chosen = read_shape(str(found.recommended))
    ladder = [s for s in tried if not s.rows]
    every = {*grid(lab, ladder), *tried, chosen, *tables(chosen), *beside(chosen)}
    shapes = sorted(every, key=lab.parameters)
    wanted = replace(
        options, shapes=tuple(s.name for s in shapes), png=args.out / f"{text.name}.png"
    )
    print(f"{text.name}: a grid of {len(shapes)} shapes", flush=True)
    rows = {r.shape: r for r in size(wanted, silent, tell).rows if r.artifact_bpb is not None}
    best = min(rows.values(), key=lambda r: r.artifact_bpb or 0.0)
    mine = rows[str(found.recommended)]
    worse = (mine.artifact_bpb or 0.0) - (best.artifact_bpb or 0.0)
    print("\n| shape | parameters | bpw | float bpb | artifact bpb | spread |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows.values():
        mark = " (best)" if row is best else ""
        mark += " (recommended)" if row is mine else ""
        spread = "" if row.artifact_spread is None else f"{row.artifact_spread:.4f}"
        print(
            f"| {row.shape}{mark} | {row.parameters:,} | {row.bits_per_weight:.2f} | "
            f"{row.float_bpb:.4f} | {row.artifact_bpb:.4f} | {spread} |"
        )
    print(
        f"\n{text.name}: recommended {mine.shape}, best of the grid {best.shape}: {worse:+.4f} bpb\n"
    )
    return worse


def main() -> None:
    """Every text; the exit code says whether all are within."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of all cells; a rerun goes on there")
    add_texts(parser)
    add("--budget", default="100kB")
    add("--steps", type=int, default=200)
    add("--seeds", type=int, default=1)
    add("--within", type=float, default=0.005)
    add("--limit", type=int, default=32_769, help="held-out tokens read")
    add("--calib-tokens", type=int, default=8_192)
    add("--set", action="append", default=[], help="of every training: train.seq_len=128")
    args = parser.parse_args()
    worse = {text.name: one(text, args) for text in read_texts(args)}
    sys.exit(any(w > args.within for w in worse.values()))


if __name__ == "__main__":
    main()
