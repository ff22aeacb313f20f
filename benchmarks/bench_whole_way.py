r"""The whole way, from text to an artifact of so many bytes: four ways to spend steps and bytes.

    python benchmarks/bench_whole_way.py --out way --text fineweb train.bin val.bin bpe.model \
        --text books books_train.jsonl books_val.jsonl 1024 [--texts fineweb,books,python] \
        [--budgets 500kB,1.5MB] [--seeds 3] [--steps 400 | --minutes 1] [--jobs 2] [--until 40]

Rows are texts and budgets; columns are
    baseline   the challenge's first: int8, zlib-9 (recipe int8-zlib)
    record     SDClip, GPTQ, byte shuffle, brotli-11 (recipe sdclip-brotli)
    rd         golfpack's default on the very same float models
    aimed      golfpack's default on models trained for the artifact: AIMED below, or --aimed; codes
               trained on labels (--aimed-refine), for which runs are shorter (--aimed-steps)
each at the shape of the ladder whose artifacts score lowest, means and standard deviations over seeds.
Shapes that leave a weight less than two bits (--few-bits) are tried by rd and aimed alone: the other
two columns are useless there (docs/LOG.md, 2026-11-30).
Every budget is artifact and code together. The code is golfpack's own counted script of a submission
(decoder, model and scorer, packed) for that very shape, and counts the same for every column: the
records' own scripts, which train too, are larger.

The first three columns share their float models. All runs of a text see the same number of steps
(or minutes) with one CPU thread each, --jobs of them at a time. Trained, built and scored cells are kept
in --out and reused (as `golfpack size` keeps them); a text "python", the sources of this interpreter's
standard library, is there without being named. The best shape of a cell is chosen on the tokens that
the table scores, in every column alike.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from tempfile import TemporaryDirectory

from texts import Text, add_texts, read_texts

from golfpack.base.files import write_atomically
from golfpack.base.progress import silent
from golfpack.base.sizes import parse_size
from golfpack.errors import GolfpackError
from golfpack.models.model import Model
from golfpack.size.lab import Lab, open_lab
from golfpack.size.options import SizeOptions
from golfpack.submission.make import USUAL, Training, make_script
from golfpack.train.shapes import read_shape
from golfpack.train.sources import DataOptions

# How `aimed` models are trained, as `golfpack train --set` has it. {artifact} is what the budget leaves
# for the artifact, as "484994B"; {budget} is the whole, the code included.
# While it is empty, `aimed` is `rd`.
AIMED: tuple[str, ...] = ()
# Column -> recipe.
COLUMNS = {"baseline": "int8-zlib", "record": "sdclip-brotli", "rd": "rd", "aimed": "rd"}
# The ladder of a budget: shapes that train in time, and tables of token pairs for the bytes they leave.
SHAPES = {"500kB": "4x128+8192x32,4x128+16384x32", "1.5MB": "4x128+49152x32x3,4x128+65536x32x3"}
# Those of fewer than two bits a weight.
FEW_BITS = {"500kB": "4x128+65536x32x3", "1.5MB": "4x128+262144x32x3"}
# Of 2,048 tokens each; see docs/size.md for what that takes.
STEPS = 400


@dataclass(frozen=True)
class Task:
    """One model to train, and what is made of it.

    Attributes:
        settings: of its training.
        steps: of its training, where the budget is steps.
        builds: (column, budget) of each artifact.
    """

    text: Text
    shape: str
    seed: int
    settings: tuple[str, ...]
    steps: int | None
    builds: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """One artifact; `bpb` is None where nothing of its shape fits."""

    text: str
    column: str
    budget: str
    shape: str
    seed: int
    parameters: int
    float_bpb: float
    bpb: float | None
    bytes: int | None
    code: int
    tokens_per_second: float


def open_text(
    text: Text, settings: tuple[str, ...], steps: int | None, args: argparse.Namespace
) -> Lab:
    """Where the models of a text are."""
    return open_lab(
        SizeOptions(
            budget="1MB",  # of no build: each names its own
            data=DataOptions(
                tokens=text.train, val_tokens=text.held_out, tokenizer=text.tokenizer
            ),
            steps=steps, minutes=args.minutes, settings=(*args.set, *settings),
            calib_tokens=args.calib_tokens, limit=args.limit, cache=True,
            out=args.out / text.name, threads=1, device=args.device,
        ),
        silent,
    )  # fmt: skip


def counted_code(lab: Lab, shape: str) -> Path:
    """The script that ships beside an artifact of this shape, as it counts."""
    family, options = lab.chosen.family, lab.model_options(read_shape(shape))
    spec = family.spec(options)
    model = Model(family, spec.config, spec, {}, "", {}, Path())  # a script knows no weights
    path = lab.cells.folder / f"code-{shape}.py"
    write_atomically(path, make_script(USUAL, model, Training()))
    return path


def do(task: Task, args: argparse.Namespace) -> list[Cell]:
    """Train a model, and build and score what is asked for, with statistics measured once."""
    with TemporaryDirectory() as cache:
        os.environ["GOLFPACK_CACHE"] = cache
        return _done(task, args)


def _done(task: Task, args: argparse.Namespace) -> list[Cell]:
    lab = open_text(task.text, (), task.steps, args)
    code = counted_code(lab, task.shape)
    if task.settings:
        told = {budget: parse_size(budget, 1) - code.stat().st_size for _, budget in task.builds}
        settings = tuple(_filled(s, told) for s in task.settings)
        lab = open_text(task.text, settings, task.steps, args)
    model = lab.trained(read_shape(task.shape), task.seed, silent)
    score = lab.scored(model.name, model.checkpoint, model.sha256, silent)
    cells = []
    for column, budget in task.builds:
        tokens = {"rd": args.refine, "aimed": args.aimed_refine}.get(column, 0)
        built = lab.compiled(
            model, silent, recipe=COLUMNS[column], budget=budget, code=[code], refine=tokens,
            refine_on="labels" if column == "aimed" and tokens else "kl",
        )  # fmt: skip
        bpb = None
        if built.refused is None:
            bpb = lab.scored(built.name, str(built.artifact), str(built.sha256), silent).bpb
        cells.append(
            Cell(
                task.text.name, column, budget, task.shape, task.seed, model.parameters, score.bpb,
                bpb, built.bytes, code.stat().st_size, model.tokens_per_second,
            )
        )  # fmt: skip
    return cells


def _filled(setting: str, left: dict[str, int]) -> str:
    """A setting with the artifact's bytes in its place. Such a model is for one budget alone."""
    if "{artifact}" not in setting:
        return setting
    (size,) = left.values()
    return setting.replace("{artifact}", f"{size}B")


def ladder_of(column: str, budget: str, args: argparse.Namespace) -> list[str]:
    """The shapes that a column tries for a budget."""
    few = args.few_bits.get(budget, "") if column in ("rd", "aimed") else ""
    return [s for s in f"{args.shapes[budget]},{few}".split(",") if s]


def tasks(texts: Sequence[Text], args: argparse.Namespace) -> list[Task]:
    """All models, seed by seed, large ones first: so that the last do not wait for one."""
    found = []
    ladders = {b: ladder_of("rd", b, args) for b in args.budgets}
    every = sorted({s for shapes in ladders.values() for s in shapes}, key=read_shape, reverse=True)
    for seed in range(args.seeds):
        for shape in every:
            budgets = [b for b in args.budgets if shape in ladders[b]]
            plain = tuple(
                (c, b)
                for b in budgets
                for c in ("baseline", "record", "rd")
                if shape in ladder_of(c, b, args)
            )
            for text in texts:
                found.append(Task(text, shape, seed, (), args.steps, plain))
                for budget in budgets:
                    settings = tuple(s.replace("{budget}", budget) for s in args.aimed)
                    own = (("aimed", budget),)
                    found.append(Task(text, shape, seed, settings, args.aimed_steps, own))
    return _merged(found)


def _merged(found: Sequence[Task]) -> list[Task]:
    """Tasks of one and the same training as one task: two processes must not work on one cell."""
    builds: dict[tuple[Task, str], tuple[tuple[str, str], ...]] = {}
    for task in found:
        own = any("{artifact}" in s for s in task.settings)
        same = replace(task, builds=()), task.builds[0][1] if own else ""
        builds[same] = (*builds.get(same, ()), *task.builds)
    return [replace(task, builds=told) for (task, _), told in builds.items()]


def run_all(todo: Sequence[Task], args: argparse.Namespace) -> tuple[list[Cell], int]:
    """Every task, `jobs` at a time, until the time is up: their cells, and how many failed."""
    began, cells, failed = time.time(), [], 0
    waiting, running = list(todo), {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        while waiting or running:
            in_time = args.until is None or time.time() - began < 60 * args.until
            while in_time and waiting and len(running) < args.jobs:
                task = waiting.pop(0)
                running[pool.submit(do, task, args)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                what = f"{task.text.name} {task.shape} seed {task.seed}"
                try:
                    made = future.result()
                    told = _line(made)
                    cells += made
                except GolfpackError as error:
                    failed, told = failed + 1, f"FAILED {error.message}"
                left = f"{len(waiting) + len(running)} left"
                print(f"[{time.time() - began:5.0f} s, {left}] {what}: {told}", flush=True)
    return cells, failed


def _line(made: Sequence[Cell]) -> str:
    figures = " ".join(f"{c.column}/{c.budget} {_figure(c.bpb)}" for c in made)
    return f"float {made[0].float_bpb:.4f}, {made[0].tokens_per_second:,.0f} tokens/s, {figures}"


def whole_seeds(cells: Sequence[Cell], args: argparse.Namespace) -> list[Cell]:
    """The cells of those seeds that every column and shape of their row has."""
    found = []
    for row in {(c.text, c.budget) for c in cells}:
        wanted = {(name, shape) for name in COLUMNS for shape in ladder_of(name, row[1], args)}
        of_row = [c for c in cells if (c.text, c.budget) == row]
        for seed in range(args.seeds):
            of_seed = [c for c in of_row if c.seed == seed]
            if {(c.column, c.shape) for c in of_seed} == wanted:
                found += of_seed
    return found


def _figure(bpb: float | None) -> str:
    return "refused" if bpb is None else f"{bpb:.4f}"


@dataclass(frozen=True)
class Best:
    """A column's best shape in a row: mean and spread over seeds."""

    shape: str
    bpb: float
    spread: float | None
    edge: str


def best(cells: Sequence[Cell], shapes: Sequence[str]) -> Best | None:
    """The shape whose artifacts score lowest, of those that fit with every seed."""
    found = []
    for at, shape in enumerate(shapes):
        scores = [c.bpb for c in cells if c.shape == shape]
        known = [s for s in scores if s is not None]
        if known and len(known) == len(scores):
            edge = "<" if at == 0 else ">" if at == len(shapes) - 1 else ""
            spread = stdev(known) if len(known) > 1 else None
            found.append(Best(shape, fmean(known), spread, edge))
    return min(found, key=lambda b: b.bpb, default=None)


def table(cells: Sequence[Cell], texts: Sequence[Text], args: argparse.Namespace) -> list[str]:
    """The table in Markdown, and below it the medians that the issue asks for."""
    lines = [
        f"| text | budget | {' | '.join(COLUMNS)} | aimed - record | aimed - rd |",
        "|---|---" + "|---:" * (len(COLUMNS) + 2) + "|",
    ]
    differences: dict[str, list[float]] = {"record": [], "rd": []}
    for text in texts:
        for budget in args.budgets:
            row = [c for c in cells if (c.text, c.budget) == (text.name, budget)]
            if not row:
                continue
            of = {
                name: best([c for c in row if c.column == name], ladder_of(name, budget, args))
                for name in COLUMNS
            }
            told = [_told(of[name]) for name in COLUMNS]
            for other in differences:
                mine, theirs = of["aimed"], of[other]
                if mine is None or theirs is None:
                    told.append("-")
                    continue
                differences[other].append(mine.bpb - theirs.bpb)
                told.append(f"{mine.bpb - theirs.bpb:+.4f}")
            lines.append(f"| {text.name} | {budget} | {' | '.join(told)} |")
    for other, values in differences.items():
        if values:
            worst = f"{max(values):+.4f}"
            lines += [
                "",
                f"aimed - {other}: median {median(values):+.4f}, worst {worst} bits per byte",
            ]
    return lines


def _told(found: Best | None) -> str:
    if found is None:
        return "none fits"
    spread = "" if found.spread is None else f" ± {found.spread:.4f}"
    return f"{found.bpb:.4f}{spread} ({found.shape}{found.edge})"


def every_shape(cells: Sequence[Cell]) -> list[str]:
    """All cells, means over seeds: what the best ones were chosen from."""
    lines = ["| text | budget | column | shape | parameters | float bpb | artifact bpb | bytes |"]
    lines.append("|---|---|---|---|---:|---:|---:|---:|")
    named = {(c.text, c.budget, c.column, c.shape): c for c in cells}
    for key in named:
        same = [c for c in cells if (c.text, c.budget, c.column, c.shape) == key]
        scores = [c.bpb for c in same if c.bpb is not None]
        bpb = f"{fmean(scores):.4f}" if scores else "refused"
        size = f"{max(c.bytes or 0 for c in same):,}"
        mean = fmean(c.float_bpb for c in same)
        lines.append(
            f"| {' | '.join(key)} | {same[0].parameters:,} | {mean:.4f} | {bpb} | {size} |"
        )
    return lines


def main() -> None:
    """Make what is missing, and print the table."""
    args = _arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # of the processes below
    args.out.mkdir(parents=True, exist_ok=True)
    texts = read_texts(args)
    todo = tasks(texts, args)
    print(f"{len(todo)} models, {sum(len(t.builds) for t in todo)} artifacts", flush=True)
    every, failed = run_all(todo, args)
    cells = whole_seeds(every, args)
    if not cells:
        sys.exit("no row has every column and shape with one seed yet: run again to go on")
    order = {
        name: at for at, name in enumerate([*(t.name for t in texts), *args.budgets, *COLUMNS])
    }
    cells.sort(
        key=lambda c: (order[c.text], order[c.budget], order[c.column], c.parameters, c.seed)
    )
    budget = f"{args.minutes:g} minutes" if args.minutes else f"{args.steps} steps"
    codes = sorted({c.code for c in cells})
    lines = [
        f"{budget} of one thread each, {_seeds(cells)}, {args.limit - 1:,} held-out tokens; of every "
        f"budget {codes[0]:,} to {codes[-1]:,} bytes are code; aimed: {' '.join(args.aimed) or 'as rd'}"
        + (f", {args.aimed_steps} steps" if args.aimed_steps != args.steps else "")
        + (f", codes trained on {args.aimed_refine:,} tokens" if args.aimed_refine else ""),
        "", *table(cells, texts, args), "",
        "< and >: the smallest and the largest shape of the ladder, beyond which a better one may lie.",
    ]  # fmt: skip
    print("\n".join(["", *lines]))
    text = "\n".join([*lines, "", *every_shape(cells), ""])
    (args.out / "table.md").write_text(text, encoding="utf-8")
    content = json.dumps([asdict(c) for c in cells], indent=1)
    (args.out / "cells.json").write_text(content, encoding="utf-8")
    print(f"every shape is in {args.out / 'table.md'}, every cell in {args.out / 'cells.json'}")
    left_out = len(every) - len(cells)
    if left_out or failed:
        print(f"{failed} models failed; {left_out} cells of incomplete seeds are not in the table")
    sys.exit(failed > 0)


def _seeds(cells: Sequence[Cell]) -> str:
    """How many seeds the rows have."""
    counts = {len({c.seed for c in cells if (c.text, c.budget) == row})
              for row in {(c.text, c.budget) for c in cells}}  # fmt: skip
    few, many = min(counts), max(counts)
    return f"{many} seed{'s' if many > 1 else ''}" if few == many else f"{few} to {many} seeds"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of all cells; a rerun goes on there")
    add_texts(parser)
    add("--budgets", default=",".join(SHAPES))
    add("--shapes", nargs="*", default=[], metavar="BUDGET=SHAPES", help="500kB=3x96,4x128,5x192")
    add("--few-bits", nargs="*", metavar="BUDGET=SHAPE", help="500kB=6x256: for rd and aimed alone")
    add("--seeds", type=int, default=3)
    add("--steps", type=int)
    add("--minutes", type=float)
    add("--jobs", type=int, default=2)
    add("--device", default="cpu", help="cpu or cuda, which all jobs share")
    add("--until", type=float, metavar="MINUTES", help="begin no model after that; a rerun goes on")
    add("--limit", type=int, default=32_769, help="held-out tokens read")
    add("--calib-tokens", type=int, default=16_384)
    add("--refine", type=int, default=0, help="tokens that codes of rd are trained on, by KL")
    add("--aimed-refine", type=int, default=0, help="tokens that those of aimed are, on labels")
    add("--aimed-steps", type=int, help="steps of aimed models, whose codes take the rest")
    add("--set", action="append", default=[], help="of every model's training: train.seq_len=128")
    add("--aimed", action="append", help="of aimed models' training, in place of AIMED")
    args = parser.parse_args()
    if args.steps is None and args.minutes is None:
        args.steps = STEPS
    args.aimed_steps = args.aimed_steps or args.steps
    args.aimed = tuple(AIMED if args.aimed is None else args.aimed)
    args.budgets = args.budgets.split(",")
    own = dict(s.split("=", 1) for s in args.shapes)
    args.shapes = SHAPES | own
    # Whoever names shapes has named all of them.
    named = None if args.few_bits is None else dict(s.split("=", 1) for s in args.few_bits)
    args.few_bits = {b: s for b, s in FEW_BITS.items() if b not in own} if named is None else named
    if missing := [b for b in args.budgets if b not in args.shapes]:
        parser.error(f"no shapes for {missing[0]}: --shapes {missing[0]}=3x96,4x128")
    return args


if __name__ == "__main__":
    main()
