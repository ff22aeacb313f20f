"""`golfpack compare` and `golfpack sweep`: recipes x budgets on one checkpoint, one table.

A sweep is a comparison of one recipe, smallest budget first.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from golfpack.artifact import open_model, split_settings
from golfpack.base.documents import save
from golfpack.base.files import file_sha256, make_folder
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.build.plan import DEFAULT_BUDGETS, plan
from golfpack.build.prepare import calib_shape, check_output, code_bytes
from golfpack.calib.sources import from_data
from golfpack.compare.frontier import check_plots, save_png
from golfpack.compare.more import with_more
from golfpack.compare.report import CompareReport, CompareRow, KlSource
from golfpack.compare.rows import CompareOptions, Runs, Score, model_settings
from golfpack.compare.store import Store, software
from golfpack.data.shards import tokens_sha256
from golfpack.data.stream import check_apart, read_stream
from golfpack.data.tokenizer import Tokenizer, load_tokenizer
from golfpack.errors import UsageError
from golfpack.models.folder import checkpoint_stem, find_tokenizer
from golfpack.models.model import Model
from golfpack.packer.recipe import load_recipe


def compare(
    options: CompareOptions,
    notify: Notify = silent,
    on_row: Callable[[CompareReport], None] | None = None,
) -> CompareReport:
    """Build every recipe at every budget, evaluate each artifact if asked to, and say what bytes buy.

    A recipe that refuses a budget is a row with the reason. Finished rows are kept in the folder with
    their artifacts, and a rerun takes them from there. With `predict` nothing is built.

    Args:
        options: what to compare.
        notify: progress.
        on_row: called with the report so far: before the first row, and after each.

    Raises:
        UsageError: bad input, a tokenizer or tokens of another model among it, or a picture without
            matplotlib. BudgetError: a prediction for less than the recipe's coarsest steps make.
        CorruptError: the byte audit failed. StrictError: a warning, under `strict`.
    """
    began = time.perf_counter()
    options = _checked(options)
    report = None
    for report in (_predicted if options.predict else _built)(options, notify):
        report = replace(report, seconds=time.perf_counter() - began)
        if on_row is not None:
            on_row(report)
    assert report is not None
    report = replace(report, rows=_with_more(report))
    if options.png is not None:
        save_png(report, options.png)
        report = replace(report, png=str(options.png))
    if report.folder is not None:
        save(report, Path(report.folder) / f"{options.command}.report.json")
    return report


def _checked(options: CompareOptions) -> CompareOptions:
    """The options with what they imply. Raises UsageError where they contradict each other."""
    options = replace(
        options,
        budgets=options.budgets or DEFAULT_BUDGETS,
        tokenizer=options.tokenizer or find_tokenizer(options.checkpoint),
    )
    _check_limits(options)
    if options.tokens is not None and options.predict:
        raise UsageError("--predict builds nothing to evaluate", "leave out --predict or --tokens")
    if options.tokens is not None and options.tokenizer is None:
        raise UsageError("an evaluation needs --tokens and --tokenizer", "add both, or drop both")
    if options.tokens is not None and options.calib is not None:
        check_apart(options.tokens, options.calib, "what is scored", "what builds calibrate on")
    if options.png is not None:
        check_plots()
        check_output(options.png, options.checkpoint)
        if len(options.recipes) > 1:
            raise UsageError("a picture shows one recipe", "give one, or leave out --png")
        settings = split_settings(options.settings)[1]
        for recipe in options.recipes if options.predict else ():
            if not load_recipe(recipe, settings).gradients:
                raise UsageError(
                    f"recipe {recipe} measures no gradients, so no KL is predicted that a picture "
                    "could show",
                    "leave out --predict or --png",
                )
    return options


def _with_more(report: CompareReport) -> list[CompareRow]:
    """The rows in their order, each with what more bytes would buy its recipe."""
    found: dict[tuple[str, str], CompareRow] = {}
    for recipe in report.recipes:
        rows = sorted((r for r in report.rows if r.recipe == recipe), key=lambda r: r.budget_bytes)
        found |= {(r.recipe, r.budget): r for r in with_more(rows)}
    return [found[r.recipe, r.budget] for r in report.rows]


def _built(options: CompareOptions, notify: Notify) -> Iterator[CompareReport]:
    """The report before the first row, and after each."""
    runs = open_runs(options)
    runs.check_folder(options.budgets)
    baseline = runs.score_float(notify)
    report = _report(runs, baseline)
    yield report
    budgets: Sequence[str] = options.budgets
    if options.command == "sweep":  # a frontier, smallest first
        budgets = sorted(budgets, key=lambda b: parse_size(b, report.parameters))
    jobs = [(b, r) for b in budgets for r in runs.recipes]
    for done, (budget, name) in enumerate(jobs):
        notify(options.command, done, len(jobs), f"{name} {budget}")
        row = runs.row(name, budget, baseline, notify)
        report = replace(report, rows=[*report.rows, row])
        yield report


def _predicted(options: CompareOptions, notify: Notify) -> Iterator[CompareReport]:
    """The same by prediction, a recipe after the other."""
    model = open_model(options.checkpoint, model_settings(options), tokenizer=options.tokenizer)
    report = _empty(options, model, list(_recipes(options)), "prediction", None)
    yield report
    by_size = sorted(options.budgets, key=lambda b: parse_size(b, report.parameters))
    for name, given in _recipes(options).items():
        planned = plan(options.build_options(given), options.budgets, notify)
        rows = [
            CompareRow(
                name, budget, row.budget_bytes or 0, artifact_bytes=row.artifact_bytes,
                bits_per_weight=row.bits_per_weight, kl=row.predicted_kl,
                quant_gap=row.predicted_bpb,
            )
            for budget, row in zip(by_size, planned.rows, strict=True)
        ]  # fmt: skip
        for row in rows:
            report = replace(report, rows=[*report.rows, row])
            yield report


def open_runs(options: CompareOptions) -> Runs:
    """Read what is quick to read, and refuse what cannot be compared.

    Raises:
        UsageError: bad input.
    """
    model = open_model(options.checkpoint, model_settings(options), tokenizer=options.tokenizer)
    for budget in options.budgets:
        parse_size(budget, model.spec.numel)
    recipes = _recipes(options)
    code_bytes(options.code)
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    calibration = _calib_sha256(options, model, tokenizer)
    tokens = np.zeros(0, np.uint16)
    if options.tokens is not None:
        tokens = read_stream(options.tokens, tokenizer, options.limit)
    inputs = {
        "checkpoint": model.sha256,
        "config": model.config,
        "tokens": tokens_sha256(tokens),
        "tokenizer": None if options.tokenizer is None else file_sha256(options.tokenizer),
        "window": options.window,
        "software": software(),
    }
    return Runs(options, model, recipes, tokens, _open_store(options), inputs, calibration)


def _report(runs: Runs, baseline: Score | None) -> CompareReport:
    """The report before its first row."""
    source: KlSource = "held-out calibration tokens" if baseline is None else "evaluation tokens"
    folder = str(runs.store.path.parent)
    report = _empty(runs.options, runs.model, list(runs.recipes), source, folder)
    if baseline is None:
        return report
    return replace(
        report,
        tokens=runs.options.tokens,
        tokens_sha256=runs.inputs["tokens"],
        window=baseline.window,
        scored_tokens=baseline.scored_tokens,
        kl_tokens=runs.sequences(baseline.window).size,
        float_loss=baseline.val_loss,
        float_bpb=baseline.val_bpb,
    )


def _empty(
    options: CompareOptions, model: Model, recipes: list[str], source: KlSource, folder: str | None
) -> CompareReport:
    """A report without rows, of an evaluation that was not asked for."""
    o = options
    return CompareReport(
        checkpoint=str(o.checkpoint),
        checkpoint_sha256=model.sha256,
        family=model.family.name,
        config=model.config,
        assumed=model.assumed,
        parameters=model.spec.numel,
        recipes=recipes,
        settings=list(o.settings),
        calibration=o.calib,
        seed=o.seed,
        code_bytes=code_bytes(o.code),
        tokens=None,
        tokens_sha256=None,
        tokenizer=None if o.tokenizer is None else str(o.tokenizer),
        window=None,
        scored_tokens=None,
        float_bytes=o.checkpoint.stat().st_size,
        float_loss=None,
        float_bpb=None,
        kl_source=source,
        kl_tokens=None,
        folder=folder,
        rows=[],
        seconds=0.0,
        argv=list(o.argv),
    )


def _check_limits(options: CompareOptions) -> None:
    for what, given in (("recipes", options.recipes), ("budgets", options.budgets)):
        if not given:
            raise UsageError(f"no {what} to compare", f"give one or more {what}")
        if len(set(given)) < len(given):
            raise UsageError(f"{what} named twice: {', '.join(given)}", "name each once")


def _recipes(options: CompareOptions) -> dict[str, str]:
    """What was given by name. Raises UsageError for one that cannot be read, or two of one name."""
    _, settings = split_settings(options.settings)
    named: dict[str, str] = {}
    for given in options.recipes:
        load_recipe(given, settings)
        name = Path(given).name.removesuffix(".toml")
        if name in named:
            raise UsageError(
                f"recipes {named[name]} and {given} have one name", "rename one of the files"
            )
        named[name] = given
    return named


def _calib_sha256(options: CompareOptions, model: Model, tokenizer: Tokenizer | None) -> str | None:
    """Of the tokens that every row calibrates on. Raises UsageError where no row could."""
    if options.calib is None:
        return None
    shape = calib_shape(model, options.calib_tokens)
    return from_data(options.calib, tokenizer, model.config["vocab_size"], *shape).sha256


def _open_store(options: CompareOptions) -> Store:
    folder = options.out or Path(f"{checkpoint_stem(options.checkpoint)}.{options.command}")
    make_folder(folder)
    return Store(folder / f"{options.command}.json")
