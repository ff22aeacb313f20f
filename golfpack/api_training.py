"""The Python API's part on training: `train` and `size`, as their commands do it."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from golfpack.api_values import AnyPath, settings_of
from golfpack.base.convert import make
from golfpack.base.progress import Notify, silent
from golfpack.build.trained import build_trained, train_report
from golfpack.size.options import SizeOptions
from golfpack.size.report import SizeReport, SizeRun
from golfpack.size.size import size as run_size
from golfpack.train.choose import TrainOptions
from golfpack.train.report import TrainReport
from golfpack.train.sources import DataOptions
from golfpack.train.train import train as run_train

T = TypeVar("T")
_OF_DATA = frozenset(f.name for f in fields(DataOptions))


def train(
    out: AnyPath,
    *,
    budget: str | None = None,
    notify: Notify = silent,
    **options: Any,
) -> TrainReport:
    """Train a float checkpoint of any model family, as `golfpack train` does.

    Args:
        out: folder for checkpoints and the log; with `resume` the run there goes on.
        budget: size of an artifact to train for and to end with, "500kB" (the command's --for).
        notify: told how far the work is: stage, done, total, note.
        options: tokens, text, val_tokens, val_fraction, tokenizer, train_vocab and tokenizer_kind: what
            to train on; family (a user's own class as "FILE.py:CLASS") and model_args, preset,
            steps or minutes, seed, threads, device, resume, settings ("train.", "model." or "data."
            options; as `build` takes them), compile_mode and tensorboard, as the command has them.

    Raises:
        UsageError: unusable options or data. BudgetError: the artifact cannot be as small.
    """
    chosen = _options(TrainOptions, {"out": out, "budget": budget, **options}, "train")
    result = run_train(chosen, notify)
    built = None if budget is None else build_trained(result, chosen, notify)
    return train_report(result, built)


def size(
    budget: str,
    *,
    out: AnyPath = "size",
    on_run: Callable[[SizeRun], None] | None = None,
    notify: Notify = silent,
    **options: Any,
) -> SizeReport:
    """Find the size of model that is best in a budget, as `golfpack size` does.

    Args:
        budget: bytes of the artifact, with the code that ships beside it, as "16MB".
        out: folder for models, artifacts and figures; what is there is taken, and gone on with.
        on_run: called with each run as it is finished.
        notify: as of `train`.
        options: what to train on, as of `train`; shapes ("6x256", ...), steps or minutes, seeds, family,
            settings, recipe, refine, calib_tokens, code, limit, window, png, threads and device, as
            the command has them.

    Raises:
        UsageError: bad input. BudgetError: every shape was refused.
    """
    table = {"budget": budget, "out": out, **options}
    return run_size(_options(SizeOptions, table, "size"), notify, on_run)


def _options(kind: type[T], options: Mapping[str, Any], what: str) -> T:
    """Options as a command makes them of what was typed."""
    table = dict(options)
    if "settings" in table:
        table["settings"] = settings_of(table["settings"])
    data = {name: table.pop(name) for name in _OF_DATA & table.keys()}
    return make(kind, {"data": make(DataOptions, data, what), **table}, what)
