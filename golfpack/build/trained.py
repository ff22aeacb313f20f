"""How `golfpack train --for SIZE` ends: the artifact of the run's model, in the run's folder."""

from pathlib import Path

from golfpack.base.progress import Notify, silent
from golfpack.build.options import BuildOptions, read_options
from golfpack.build.report import BuildReport
from golfpack.build.run import build
from golfpack.train.checkpoint import CALIBRATION, FINAL
from golfpack.train.choose import TrainOptions
from golfpack.train.trainer import TrainResult

ARTIFACT = "model.golf"


def build_trained(
    result: TrainResult, options: TrainOptions, notify: Notify = silent
) -> BuildReport:
    """Build a finished run's model at the budget that it was trained for.

    It is calibrated on the run's own training tokens, as a build is by default.

    Raises:
        UsageError, BudgetError: as `build` does.
    """
    return build(built_options(result, options), notify)


def built_options(result: TrainResult, options: TrainOptions) -> BuildOptions:
    """The build that a run ends with."""
    folder = result.checkpoint.parent
    return read_options({
        "checkpoint": folder / FINAL, "budget": result.budget, "calib": str(folder / CALIBRATION),
        "output": folder / ARTIFACT, "tokenizer": _tokenizer(options),
        "model": options.family if options.family and ":" in options.family else None,
        "model_args": options.model_args, "seed": options.seed or 0, "threads": options.threads,
        "device": options.device, "argv": tuple(options.argv),
    })  # fmt: skip


def _tokenizer(options: TrainOptions) -> Path | None:
    return options.data.tokenizer
