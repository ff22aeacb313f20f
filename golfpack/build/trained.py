"""How `golfpack train --for SIZE` ends: the artifact of the run's model, in the run's folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from golfpack.base.defaults import CALIB_TOKENS
from golfpack.base.progress import Notify, silent
from golfpack.build.options import BuildOptions, read_options
from golfpack.build.prepare import CALIB_LENGTH, HELD_OUT
from golfpack.build.report import BuildReport
from golfpack.build.together import build_together
from golfpack.data.shards import read_tokens
from golfpack.train.checkpoint import CALIBRATION, FINAL
from golfpack.train.choose import TrainOptions
from golfpack.train.report import TrainReport
from golfpack.train.sources import TOKENIZER_FILES
from golfpack.train.trainer import TrainResult

ARTIFACT = "model.golf"
# Tokens that the codes are trained on at the end (`build --refine`, on labels): a share of those that
# the run saw, and so many per weight at most (docs/training.md).
REFINED_SHARE, REFINED_PER_WEIGHT = 0.05, 0.5


def build_trained(
    result: TrainResult, options: TrainOptions, notify: Notify = silent
) -> BuildReport | None:
    """Build a finished run's model at the budget that it was trained for.

    Processes of torchrun share the work; None in all but the first.

    Args:
        result: of the run.
        options: those of `train` that it was started with.

    Raises:
        UsageError, BudgetError: as `build` does.
    """
    return build_together(built_options(result, options), notify)


def train_report(
    result: TrainResult, built: BuildReport | None, argv: Sequence[str] = ()
) -> TrainReport:
    """The document of a run, with the artifact where it ended with one.

    Args:
        argv: of the command, if it was one.
    """
    report = TrainReport(
        result.steps, result.seconds, result.final_loss, result.val_loss, str(result.checkpoint),
        argv=list(argv),
    )  # fmt: skip
    if built is None:
        return report
    return replace(
        report,
        artifact=built.artifact,
        artifact_bytes=built.artifact_bytes,
        kl=built.measured_kl,
    )


def built_options(result: TrainResult, options: TrainOptions) -> BuildOptions:
    """The build that a run ends with, which calibrates on the run's own training tokens."""
    folder = result.checkpoint.parent
    calibration = folder / CALIBRATION
    # A short text is used up to what a build holds back of it.
    most = len(read_tokens(str(calibration))) - HELD_OUT * CALIB_LENGTH
    tokens = refined_tokens(result)
    user = options.family if options.family and ":" in options.family else None
    return read_options({
        "checkpoint": folder / FINAL, "budget": result.budget, "calib": str(calibration),
        "calib_tokens": min(CALIB_TOKENS, max(2, most)), "output": folder / ARTIFACT,
        "tokenizer": _tokenizer(folder, options), "model": user, "model_args": options.model_args,
        "refine": tokens, "refine_on": "labels" if tokens else "kl", "seed": result.seed,
        "threads": options.threads, "device": options.device, "argv": tuple(options.argv),
    })  # fmt: skip


def refined_tokens(result: TrainResult) -> int:
    """Tokens of the last part of a run for an artifact, in which the codes themselves are trained.

    None where the run found that steps gain more in that time, and took it.
    """
    if not result.codes:
        return 0
    weights = result.parameters * REFINED_PER_WEIGHT
    return int(min(REFINED_SHARE * result.tokens, weights))


def _tokenizer(folder: Path, options: TrainOptions) -> Path | None:
    """That of the run's tokens, where it is known."""
    own = (folder / name for name in TOKENIZER_FILES.values())
    return options.data.tokenizer or next((path for path in own if path.is_file()), None)
