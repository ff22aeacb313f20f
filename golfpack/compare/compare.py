"""`golfpack compare`: recipes x budgets on one checkpoint, one table."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from golfpack.artifact import checkpoint_stem, open_model, split_settings
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.build.prepare import calib_shape, code_bytes
from golfpack.calib.sources import from_data
from golfpack.compare.report import CompareReport
from golfpack.compare.rows import CompareOptions, Runs, Score, file_sha256, model_settings
from golfpack.compare.store import Store, software
from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import Tokenizer, load_tokenizer
from golfpack.errors import UsageError
from golfpack.models.model import Model
from golfpack.packer.recipe import load_recipe


def compare(
    options: CompareOptions,
    notify: Notify = silent,
    on_row: Callable[[CompareReport], None] | None = None,
) -> CompareReport:
    """Build every recipe at every budget, evaluate each artifact, and put them in one table.

    A recipe that refuses a budget is a row with the reason. Finished rows are kept in the folder with
    their artifacts, and a rerun takes them from there.

    Args:
        options: what to compare.
        notify: progress.
        on_row: called with the report so far: before the first row, and after each.

    Raises:
        UsageError: bad input, a tokenizer or tokens of another model among it.
        CorruptError: the byte audit failed.
    """
    began = time.perf_counter()
    runs = open_runs(options, "compare")
    baseline = runs.score_float(notify)
    report = _report(runs, baseline)
    _tell(on_row, report)
    jobs = [(b, r) for b in options.budgets for r in runs.recipes]
    for done, (budget, name) in enumerate(jobs):
        notify("compare", done, len(jobs), f"{name} {budget}")
        row = runs.row(name, budget, baseline, notify)
        report = replace(report, rows=[*report.rows, row], seconds=time.perf_counter() - began)
        _tell(on_row, report)
    return report


def _tell(on_row: Callable[[CompareReport], None] | None, report: CompareReport) -> None:
    if on_row is not None:
        on_row(report)


def open_runs(options: CompareOptions, command: str) -> Runs:
    """Read what is quick to read, and refuse what cannot be compared.

    Args:
        command: whose rows these are: it names the folder and the file in it.

    Raises:
        UsageError: bad input.
    """
    _check_limits(options)
    model = open_model(options.checkpoint, model_settings(options))
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
        "tokens": hashlib.sha256(tokens.astype("<u2").tobytes()).hexdigest(),
        "tokenizer": None if options.tokenizer is None else file_sha256(options.tokenizer),
        "window": options.window,
        "software": software(),
    }
    store = _open_store(options, command)
    return Runs(options, model, recipes, tokens, store, inputs, calibration)


def _report(runs: Runs, baseline: Score) -> CompareReport:
    """The report before its first row."""
    o = runs.options
    assert o.tokens is not None
    return CompareReport(
        checkpoint=str(o.checkpoint),
        checkpoint_sha256=runs.model.sha256,
        family=runs.model.family.name,
        config=runs.model.config,
        assumed=runs.model.assumed,
        settings=list(o.settings),
        calibration=o.calib,
        seed=o.seed,
        code_bytes=code_bytes(o.code),
        tokens=o.tokens,
        tokens_sha256=runs.inputs["tokens"],
        tokenizer=str(o.tokenizer),
        window=baseline.window,
        scored_tokens=baseline.scored_tokens,
        kl_tokens=runs.sequences(baseline.window).size,
        float_bytes=o.checkpoint.stat().st_size,
        float_loss=baseline.val_loss,
        float_bpb=baseline.val_bpb,
        folder=str(runs.store.path.parent),
        rows=[],
        seconds=0.0,
        argv=o.argv,
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


def _open_store(options: CompareOptions, command: str) -> Store:
    folder = options.out or Path(f"{checkpoint_stem(options.checkpoint)}.{command}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"cannot make {folder}: {e.strerror}", "choose another --out") from e
    return Store(folder / f"{command}.json")
