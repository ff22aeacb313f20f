"""`golfpack build --submission`: an artifact and its script, which share one budget."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from golfpack.base.files import write_atomically
from golfpack.base.progress import Notify, silent
from golfpack.build.options import BuildOptions
from golfpack.build.prepare import read_model
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.build.run import build
from golfpack.errors import UsageError
from golfpack.eval.choose import load_ttt
from golfpack.export.decoder import uses
from golfpack.packer.format.loader import load
from golfpack.submission.count import SCRIPT
from golfpack.submission.folder import check_folder, write_submission
from golfpack.submission.make import USUAL, Training, make_script
from golfpack.submission.parts import SubmissionOptions
from golfpack.submission.report import SubmissionReport

# Builds at most, until the script that the artifact needs is the one that was counted.
_ROUNDS = 4


@dataclass(frozen=True)
class Shared:
    """Reports of an artifact and of the folder it went into, which share one budget."""

    build: BuildReport
    submission: SubmissionReport


def build_submission(
    options: BuildOptions,
    folder: Path,
    ttt: str = "none",
    notify: Notify = silent,
    on_failure: Callable[[FailedBuild], None] | None = None,
) -> Shared:
    """Build an artifact for what its script leaves of the budget, and write both into a folder.

    The script depends on the artifact by what decoding it takes. It is made for what the default recipe
    writes; where the artifact then takes another one, it is built again with that one counted.

    Args:
        options: of the build; its `code` ships, too. "ttt.option=value" may be among its settings.
        folder: to write; empty, or missing.
        ttt: test-time training of the script.

    Raises:
        UsageError, BudgetError, StrictError: as `build`, or the model is not of the golf family.
    """
    if options.dry_run or options.goal.replay is not None:
        raise UsageError(
            "--submission writes a folder for a new build: it goes with neither --dry-run nor --from",
            "build first, then golfpack export X.golf --submission DIR",
        )
    of_ttt = tuple(s for s in options.inputs.settings if s.startswith("ttt."))
    of_model = tuple(s for s in options.inputs.settings if s.startswith("model."))
    options = options.changed(settings=tuple(s for s in options.inputs.settings if s not in of_ttt))
    out = SubmissionOptions(
        artifact=Path(), folder=folder, checkpoint=options.inputs.checkpoint,
        settings=(*of_model, *of_ttt), ttt=ttt, code=options.inputs.code,
    )  # fmt: skip
    check_folder(out)
    notify("script", 0, 0, "bundled, minified and packed")
    model, _ = read_model(options)
    training = Training.of(load_ttt(ttt, [s.removeprefix("ttt.") for s in of_ttt]), model)
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        report = _fitted(
            lambda code: build(options.changed(code=code), notify, on_failure),
            lambda needs: make_script(needs, model, training),
            folder / SCRIPT,
            out.code,
        )
    except BaseException:
        (folder / SCRIPT).unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise
    budget = out.budget if report.budget_bytes is None else report.budget_bytes
    out = replace(out, artifact=Path(str(report.artifact)), budget=budget, force=True)
    return Shared(report, write_submission(out, notify))


def _fitted(
    build_with: Callable[[tuple[Path, ...]], BuildReport],
    script_for: Callable[..., bytes],
    path: Path,
    others: tuple[Path, ...],
) -> BuildReport:
    """The build whose budget counts the very script that its artifact takes, written to `path`."""
    script = script_for(USUAL)
    for done in range(_ROUNDS):
        write_atomically(path, script)
        report = build_with((path, *others))
        counted, script = len(script), script_for(uses(load(Path(str(report.artifact)))))
        # A shorter one leaves bytes over, of which the next build makes use; not for ever.
        if len(script) == counted or (done and len(script) < counted):
            return report
    raise UsageError(
        f"the script and the artifact keep changing each other after {_ROUNDS} builds",
        "name the codec in the recipe in place of auto, or give another --budget",
    )
