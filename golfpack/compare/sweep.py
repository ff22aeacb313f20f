"""`golfpack sweep`: one recipe at several budgets, and what more bytes would buy."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from golfpack.base.documents import save
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.build.options import CALIB_TOKENS, BuildOptions, Goal, Inputs, Machine
from golfpack.build.plan import DEFAULT_BUDGETS, plan
from golfpack.build.plan_report import PlanReport
from golfpack.build.prepare import DEFAULT_RECIPE, check_output, code_bytes
from golfpack.compare.compare import open_runs
from golfpack.compare.frontier import check_plots, save_png
from golfpack.compare.report import CompareRow
from golfpack.compare.rows import EVAL_TOKENS, KL_TOKENS, CompareOptions, Runs, Score
from golfpack.compare.sweep_report import SweepReport, SweepRow, with_more
from golfpack.errors import UsageError


@dataclass(frozen=True)
class SweepOptions:
    """What to sweep; see `golfpack sweep --help`.

    Attributes:
        budgets: as `build` takes them; none for the range in which people build.
        recipe: name or .toml file.
        evaluate: score every artifact, and the float model, on `tokens`.
        predict: build nothing, and take bytes and KL as `plan` expects them.
        png: draw the frontier into this file.
        tokens, tokenizer, limit, window, kl_tokens, out: as `compare` has them.
        settings, calib, calib_tokens, code, seed, strict, cache: as `build` has them.
    """

    checkpoint: Path
    budgets: tuple[str, ...] = ()
    recipe: str = DEFAULT_RECIPE
    evaluate: bool = False
    predict: bool = False
    png: Path | None = None
    tokens: str | None = None
    tokenizer: Path | None = None
    limit: int = EVAL_TOKENS
    window: int | None = None
    kl_tokens: int = KL_TOKENS
    out: Path | None = None
    settings: tuple[str, ...] = ()
    calib: str | None = None
    calib_tokens: int = CALIB_TOKENS
    code: tuple[Path, ...] = ()
    seed: int = 0
    threads: int = 1
    strict: bool = False
    cache: bool = True
    argv: list[str] = field(default_factory=list)


def sweep(options: SweepOptions, notify: Notify = silent) -> SweepReport:
    """Build every budget, evaluate the artifacts if asked to, and say what more bytes would buy.

    A budget that nothing fits is a row with the reason. Finished rows are kept in the folder with
    their artifacts, and a rerun takes them from there.

    Raises:
        UsageError: bad input, or --png without matplotlib. StrictError: a warning, under `strict`.
        BudgetError: a prediction for less than the recipe's coarsest steps make.
    """
    options = _checked(options)
    report = _predicted(options, notify) if options.predict else _built(options, notify)
    report = replace(report, rows=with_more(report.rows))
    if options.png is not None:
        save_png(report, options.png)
        report = replace(report, png=str(options.png))
    if report.folder is not None:
        save(report, Path(report.folder) / "sweep.report.json")
    return report


def _checked(options: SweepOptions) -> SweepOptions:
    """The options with what they imply. Raises UsageError where they contradict each other."""
    if options.tokens is not None:
        options = replace(options, evaluate=True)
    if options.evaluate and options.predict:
        raise UsageError("--predict builds nothing to evaluate", "leave out --predict or --tokens")
    if options.evaluate and (options.tokens is None or options.tokenizer is None):
        raise UsageError("an evaluation needs --tokens and --tokenizer", "add both, or drop --eval")
    if options.png is not None:
        check_plots()
        check_output(options.png, options.checkpoint)
    return replace(options, budgets=options.budgets or DEFAULT_BUDGETS)


def _built(options: SweepOptions, notify: Notify) -> SweepReport:
    began = time.perf_counter()
    runs = open_runs(_rows_wanted(options), "sweep")
    (name,) = runs.recipes
    numel = runs.model.spec.numel
    baseline = runs.score_float(notify) if options.evaluate else None
    budgets = sorted(options.budgets, key=lambda b: parse_size(b, numel))
    rows = []
    for done, budget in enumerate(budgets):
        notify("sweep", done, len(budgets), _so_far(budget, rows))
        rows.append(_row(runs.row(name, budget, baseline, notify)))
    return SweepReport(
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=runs.model.sha256,
        assumed=runs.model.assumed,
        recipe=name,
        settings=list(options.settings),
        parameters=numel,
        code_bytes=code_bytes(options.code),
        calibration=options.calib,
        seed=options.seed,
        rows=rows,
        folder=str(runs.store.path.parent),
        seconds=time.perf_counter() - began,
        argv=options.argv,
        **_evaluation(runs, baseline),
    )


def _rows_wanted(options: SweepOptions) -> CompareOptions:
    o = options
    return CompareOptions(
        o.checkpoint, (o.recipe,), o.budgets, o.tokens, o.tokenizer, o.limit, o.window, o.kl_tokens,
        o.out, o.settings, o.calib, o.calib_tokens, o.code, o.seed, o.threads, o.strict, o.cache,
        o.argv,
    )  # fmt: skip


def _so_far(budget: str, rows: list[SweepRow]) -> str:
    kls = [r.kl for r in rows if r.kl is not None]
    return f"{budget}, last KL {kls[-1]:.5f}" if kls else budget


def _evaluation(runs: Runs, baseline: Score | None) -> dict:
    """The report's fields on what quality was measured with."""
    if baseline is None:
        none = dict.fromkeys(("tokens", "tokens_sha256", "window", "scored_tokens", "float_bpb"))
        return {**none, "kl_source": "held-out calibration tokens", "kl_tokens": None}
    return {
        "tokens": runs.options.tokens,
        "tokens_sha256": runs.inputs["tokens"],
        "window": baseline.window,
        "scored_tokens": baseline.scored_tokens,
        "float_bpb": baseline.val_bpb,
        "kl_source": "evaluation tokens",
        "kl_tokens": runs.sequences(baseline.window).size,
    }


def _row(found: CompareRow) -> SweepRow:
    scored = found.val_bpb is not None
    return SweepRow(
        budget=found.budget,
        budget_bytes=found.budget_bytes,
        refused=found.refused,
        artifact=found.artifact,
        artifact_sha256=found.artifact_sha256,
        artifact_bytes=found.artifact_bytes,
        headroom_bytes=found.headroom_bytes,
        bits_per_weight=found.bits_per_weight,
        kl=found.kl if scored else found.build_kl,
        val_bpb=found.val_bpb,
        bpb_loss=found.quant_gap if scored else found.build_bpb,
        build_seconds=found.build_seconds,
        warnings=found.warnings,
        reused=found.reused,
    )


def _predicted(options: SweepOptions, notify: Notify) -> SweepReport:
    o = options
    asked = BuildOptions(
        inputs=Inputs(
            checkpoint=o.checkpoint, calib=o.calib, calib_tokens=o.calib_tokens,
            tokenizer=o.tokenizer, code=o.code, settings=o.settings,
        ),
        goal=Goal(recipe=o.recipe, seed=o.seed, strict=o.strict),
        machine=Machine(threads=o.threads, cache=o.cache),
    )  # fmt: skip
    found = plan(asked, o.budgets, notify)
    sizes = sorted((parse_size(b, found.parameters), b) for b in o.budgets)
    return SweepReport(
        checkpoint=found.checkpoint,
        checkpoint_sha256=found.checkpoint_sha256,
        assumed=found.assumed,
        recipe=found.recipe,
        settings=found.settings,
        parameters=found.parameters,
        code_bytes=found.code_bytes,
        calibration=o.calib,
        seed=o.seed,
        tokens=None,
        tokens_sha256=None,
        window=None,
        scored_tokens=None,
        float_bpb=None,
        kl_source="prediction",
        kl_tokens=None,
        folder=None,
        rows=_planned_rows(found, [budget for _, budget in sizes]),
        seconds=found.seconds,
        argv=o.argv,
    )


def _planned_rows(found: PlanReport, budgets: list[str]) -> list[SweepRow]:
    return [
        SweepRow(
            budget=budget,
            budget_bytes=row.budget_bytes or 0,
            artifact_bytes=row.artifact_bytes,
            bits_per_weight=row.bits_per_weight,
            kl=row.predicted_kl,
            bpb_loss=row.predicted_bpb,
        )
        for budget, row in zip(budgets, found.rows, strict=True)
    ]
