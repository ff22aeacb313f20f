"""`golfpack size`: how large a model is best in so many bytes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from golfpack.base.documents import save
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.build.prepare import DEFAULT_RECIPE, code_bytes
from golfpack.errors import BudgetError, UsageError
from golfpack.models.ranks import refuse_others
from golfpack.size.answer import (
    best_of,
    between_of,
    curves_of,
    in_words,
    recommended,
    rows_of,
)
from golfpack.size.lab import Lab, open_lab
from golfpack.size.options import SizeOptions
from golfpack.size.picture import can_draw, check_plots, save_png
from golfpack.size.report import SizeReport, SizeRun
from golfpack.size.shapes import between, beyond, blocks, depth_of, ladder, neighbours, tables
from golfpack.train.run import training_of
from golfpack.train.shapes import Shape, read_shape


def size(
    options: SizeOptions,
    notify: Notify = silent,
    on_run: Callable[[SizeRun], None] | None = None,
) -> SizeReport:
    """Train a ladder of shapes alike, compile each to the budget, score both, and say which is best.

    Finished work is kept in the folder, whole or not at all; a rerun takes what has the same settings,
    and goes on with a training that was interrupted.

    Args:
        options: what to train and to score.
        notify: progress.
        on_run: called with each run as it is finished.

    Raises:
        UsageError: bad input. BudgetError: every shape was refused.
    """
    began = time.perf_counter()
    refuse_others("run it without torchrun")
    budget = _budget(options)
    if options.png is not None:
        check_plots()
        _check_folder(options.png)
    if options.seeds < 1:
        raise UsageError(f"{options.seeds} seeds train nothing", "give --seeds 1 or more")
    lab = open_lab(options, notify)
    shapes, runs = _climbed(lab, budget, notify, on_run)
    if all(r.refused is not None for r in runs):
        raise BudgetError("nothing was built: every shape was refused", runs[0].refused)
    report = _report(lab, runs, shapes, budget, began)
    if options.png is not None or can_draw():
        path = options.png or options.out / "size.png"
        save_png(report, path)
        report = replace(report, png=str(path))
    report = replace(report, seconds=time.perf_counter() - began)
    save(report, options.out / "size.report.json")
    return report


def _climbed(
    lab: Lab, budget: int, notify: Notify, on_run: Callable[[SizeRun], None] | None
) -> tuple[list[Shape], list[SizeRun]]:
    """Shapes and their runs; where nobody described them, the search goes on around the best one."""
    shapes: list[Shape] = []
    runs: list[SizeRun] = []
    new = _shapes(lab.options, lab, budget)
    while new:
        shapes = sorted([*shapes, *new], key=lab.parameters)
        for run in _runs(lab, new, notify):
            runs.append(run)
            if on_run is not None:
                on_run(run)
        new = [] if lab.options.shapes else _next(lab, shapes, runs, budget)
    return shapes, runs


def _runs(lab: Lab, shapes: Sequence[Shape], notify: Notify) -> Iterator[SizeRun]:
    """Every shape, seed by seed."""
    jobs = [(seed, shape) for seed in range(lab.options.seeds) for shape in shapes]
    for done, (seed, shape) in enumerate(jobs):
        notify("size", done, len(jobs), f"{shape.name} seed {seed}")
        yield one_run(lab, shape, seed, notify)


def _next(
    lab: Lab, shapes: Sequence[Shape], runs: Sequence[SizeRun], budget: int
) -> Sequence[Shape]:
    """What to try beside the best so far: another size, other depths, a table, other blocks with it."""
    best = best_of(rows_of(runs))
    if best is None:
        return []
    shape = read_shape(best.shape)
    if not shape.rows:
        further = beyond(lab.parameters, [s for s in shapes if not s.rows], best.shape, budget)
        if further is not None:
            return [further]
        near = neighbours(lab.parameters, shape, budget)
        if new := [s for s in near if s not in shapes]:
            return new
    if training_of(lab.chosen.family).token_table is None:
        return []
    found = tables(lab.parameters, shapes, shape, budget)
    return found or (blocks(lab.parameters, shapes, shape, budget) if shape.rows else [])


def one_run(lab: Lab, shape: Shape, seed: int, notify: Notify) -> SizeRun:
    """Train, compile and score one shape; what the compiler refuses is a run with the reason."""
    model = lab.trained(shape, seed, notify)
    score = lab.scored(model.name, model.checkpoint, model.sha256, notify)
    run = SizeRun(
        shape.name, model.parameters, seed, model.steps, model.tokens, model.seconds,
        model.tokens_per_second, score.bpb, score.tokens,
    )  # fmt: skip
    built = lab.compiled(model, notify)
    if built.refused is not None:
        return replace(run, refused=built.refused, reused=model.reused and built.reused)
    found = lab.scored(built.name, str(built.artifact), str(built.sha256), notify)
    return replace(
        run, artifact=built.artifact, artifact_bytes=built.bytes,
        bits_per_weight=built.bits_per_weight, artifact_bpb=found.bpb, gap=found.bpb - score.bpb,
        kl=built.kl, build_seconds=built.seconds, warnings=built.warnings,
        reused=model.reused and built.reused,
    )  # fmt: skip


def _check_folder(png: Path) -> None:
    """Raise UsageError before the long work where its picture could not be written."""
    if png.is_dir() or not png.parent.is_dir():
        what = "it is a folder" if png.is_dir() else f"there is no folder {png.parent}"
        raise UsageError(f"cannot write {png}: {what}", "choose another --png")


def _budget(options: SizeOptions) -> int:
    """Bytes for the artifact. Raises UsageError for a budget that follows the model's size."""
    if parse_size(options.budget, 8_000_000) != parse_size(options.budget, 16_000_000):
        raise UsageError(
            f"{options.budget} is another size for every shape", "give bytes, such as 16MB"
        )
    left = parse_size(options.budget, 1) - code_bytes(options.code)
    if left <= 0:
        raise BudgetError(
            f"the code takes {code_bytes(options.code):,} bytes, all of {options.budget}",
            "give a larger --budget",
        )
    return left


def _shapes(options: SizeOptions, lab: Lab, budget: int) -> Sequence[Shape]:
    if not options.shapes:
        return ladder(lab.parameters, budget)
    shapes = sorted({read_shape(s) for s in options.shapes}, key=lab.parameters)
    if len(shapes) < len(options.shapes):
        raise UsageError(f"shapes named twice: {', '.join(options.shapes)}", "name each once")
    lab.check_reach(shapes[0], budget)  # the smallest: what it cannot reach none can
    return shapes


def _report(
    lab: Lab, runs: list[SizeRun], shapes: Sequence[Shape], budget: int, began: float
) -> SizeReport:
    o, rows = lab.options, rows_of(runs)
    # A curve over parameters is of one rule of depths, and those of a table learn otherwise.
    rungs = [s for s in shapes if not s.rows and (o.shapes or s.layers == depth_of(s.dim))]
    names = {s.name for s in rungs}
    best, curves = best_of(rows), curves_of([r for r in rows if r.shape in names])
    assert best is not None  # at least one was built
    found = None
    if curves is not None:
        of_ladder = [r for r in runs if r.shape in names]
        found = between_of(of_ladder, curves, best, between(lab.parameters, rungs), budget)
    return SizeReport(
        family=lab.chosen.family.name,
        budget=o.budget,
        budget_bytes=budget + code_bytes(o.code),
        code_bytes=code_bytes(o.code),
        recipe=o.recipe or DEFAULT_RECIPE,
        steps=lab.chosen.config.steps,
        minutes=lab.chosen.config.minutes,
        seeds=o.seeds,
        settings=list(o.settings),
        tokens=lab.chosen.data.sources,
        tokens_sha256=lab.digests["training"],
        tokenizer=str(lab.data.path),
        held_out=lab.held_out,
        scored_tokens=runs[0].scored_tokens,
        rows=rows,
        runs=runs,
        curves=curves,
        best=best.shape,
        between=found,
        recommended=recommended(best, curves, found),
        says=in_words(rows, best, curves, found),
        notes=list(lab.cells.notes),
        folder=str(o.out),
        png=None,
        seconds=time.perf_counter() - began,
        argv=list(o.argv),
    )
