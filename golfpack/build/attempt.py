"""What a build leaves behind besides its artifact: the report of a success or of a failure."""

import glob
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from golfpack.base.documents import save
from golfpack.base.files import file_sha256
from golfpack.build.options import BuildOptions, Inputs
from golfpack.build.prepare import Prepared, code_bytes
from golfpack.build.rebuild import recorded_options
from golfpack.build.report import (
    BuildReport,
    FailedBuild,
    FrontierPoint,
    InputFile,
    Refinement,
    SequenceReport,
    TextLoss,
)
from golfpack.errors import BudgetError, ExitCode, GolfpackError, UsageError
from golfpack.measure.tensors import Known, TensorReport, tensor_reports
from golfpack.models.device import peak_memory_bytes
from golfpack.models.folder import checkpoint_stem
from golfpack.models.model import Model
from golfpack.packer.aim import Budget
from golfpack.packer.format.container import TOKENIZER_STREAM
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes.quantize import Sense
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.recipe import Recipe, pass_tables
from golfpack.packer.state import PackState

REPORT = ".report.json"
# Of a failure: the report that describes an artifact which exists is not touched.
FAILED_REPORT = ".failed.report.json"


class Clock:
    """Wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began


class Attempt:
    """How far a build has come: what its report says, whether it succeeds or not."""

    def __init__(self, options: BuildOptions) -> None:
        self.options = options
        self.clock = Clock()
        self.model: Model | None = None
        self.recipe: Recipe | None = None
        self.budget: Budget | None = None
        self.prepared: Prepared | None = None
        self.inputs: list[InputFile] = []
        self.warnings: list[str] = []

    def begin(self, model: Model, recipe: Recipe, budget: Budget | None) -> None:
        """The options are understood and the work begins: from here on a failure is reported."""
        self.model, self.recipe, self.budget = model, recipe, budget
        self.inputs = input_files(self.options.inputs)


@dataclass(frozen=True)
class Loss:
    """What a build lost: KL in nats per token, by text, and what other sizes would (bytes, KL)."""

    measured: float | None = None
    texts: tuple[TextLoss, ...] = ()
    predicted: float | None = None
    ratio: float | None = None
    frontier: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Built:
    """A finished build; `ready` is the state that the search got."""

    prepared: Prepared
    ready: PackState
    state: PackState
    artifact: Artifact
    loss: Loss
    output: Path | None
    refined: Refinement | None
    in_sequence: SequenceReport | None


def output_of(options: BuildOptions) -> Path:
    """Where the artifact goes."""
    return options.output or Path(checkpoint_stem(options.inputs.checkpoint) + ".golf")


def input_files(inputs: Inputs) -> list[InputFile]:
    """Every file a build reads besides its checkpoint; those that are not there are left out."""
    model = "" if inputs.model is None else inputs.model.rpartition(":")[0]
    named = [
        *[("calibration", p) for p in calibration_files(inputs.calib)],
        *([("tokenizer", inputs.tokenizer)] if inputs.tokenizer else []),
        *[("code", p) for p in inputs.code],
        *([("model", Path(model))] if model else []),
    ]
    found = []
    for use, path in named:
        if path.is_file():
            found.append(InputFile(use, str(path), path.stat().st_size, file_sha256(path)))
    return found


def calibration_files(pattern: str | None) -> list[Path]:
    """The files that a path or a glob of calibration data names."""
    if pattern is None:
        return []
    names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    return [Path(n) for n in names]


def build_report(attempt: Attempt, built: Built) -> BuildReport:
    """The report of a build that succeeded."""
    options, prepared, state = attempt.options, built.prepared, built.state
    model, container = prepared.model, built.artifact.container
    budget, plan = attempt.budget, options.goal.plan
    return BuildReport(
        checkpoint=str(options.inputs.checkpoint),
        checkpoint_sha256=model.sha256,
        family=model.family.name,
        config=model.config,
        assumed=model.assumed,
        recipe=prepared.recipe.name,
        plan=None if plan is None else str(plan.path),
        settings=list(options.inputs.settings),
        seed=options.goal.seed,
        parameters=model.spec.numel,
        budget_bytes=None if budget is None else budget.total,
        code_bytes=code_bytes(options.inputs.code),
        artifact=None if built.output is None else str(built.output),
        artifact_bytes=container.size,
        artifact_sha256=container.sha256,
        headroom_bytes=None if budget is None else budget.artifact - container.size,
        fixed_bytes=container.overhead,
        bits_per_weight=8 * container.size / model.spec.numel,
        dial=state.dial,
        trace=[[r.dial, r.artifact_bytes] for r in state.trace],
        calibration=prepared.calibration,
        predicted_kl=built.loss.predicted,
        measured_kl=built.loss.measured,
        measured_bpb=prepared.bpb(built.loss.measured),
        losses=list(built.loss.texts),
        kl_ratio=built.loss.ratio,
        frontier=[FrontierPoint(size, kl) for size, kl in built.loss.frontier],
        notes=[*model.notes, *state.notes],
        warnings=list(state.warnings),
        seconds=attempt.clock.seconds,
        allocation=None if state.allocation is None else asdict(state.allocation),
        pruning=[asdict(p) for p in state.pruning],
        refined=built.refined,
        in_sequence=built.in_sequence,
        codes=_code_configs(built.artifact),
        tensors=_tensors(built),
        options=recorded_options(options, attempt.budget),
        passes=pass_tables(prepared.recipe),
        search=vars(prepared.recipe.search),
        calibrates=prepared.recipe.calibration,
        inputs=attempt.inputs,
        argv=list(options.argv),
        device=prepared.backend.device,
        peak_memory_bytes=peak_memory_bytes(prepared.backend.device),
        tokenizer_bytes=len(container.streams.get(TOKENIZER_STREAM, b"")),
    )


def _tensors(built: Built) -> list[TensorReport]:
    state = built.state
    known = Known(
        blocks={t.name: t.block for t in state.spec.tensors},
        # Folded weights are other numbers for the same function; pruned ones are a loss.
        weights=state.floats,
        sensitivity=state.sensitivity,
        in_nats=built.prepared.recipe.gradients and state.stats is not None,
        limits={n: scheme.limit for n, scheme in state.plan.items()},
        fallbacks=_fallbacks(built),
    )
    return tensor_reports(built.artifact, known, state.threads)


def _fallbacks(built: Built) -> dict[str, str]:
    """By tensor, what was done in place of what the recipe asks for."""
    found = {}
    sense = next((p for p in built.prepared.recipe.prepare if isinstance(p, Sense)), None)
    for name, known in built.state.sensitivity.items():
        if built.prepared.stats is not None and not known.measured:
            found[name] = "calibration never met it, so its relative error stands in"
        elif sense and known.factor is not None and known.factor.damp > sense.damp:
            found[name] = f"Hessian not positive definite, damp raised to {known.factor.damp:g}"
    for name, scheme in built.ready.plan.items():
        kept = not isinstance(built.artifact.tensors[name][1], QTensor)
        if kept and not isinstance(scheme, Keep):
            found[name] = "kept as floats, as the budget holds every weight exactly"
    return found


def _code_configs(artifact: Artifact) -> list[dict[str, Any]]:
    """How each stream of codes is coded, as the file says it."""
    codes = artifact.container.manifest.get("codes") or []
    return [codes] if isinstance(codes, dict) else list(codes)


def report_failure(
    attempt: Attempt, error: Exception, on_failure: Callable[[FailedBuild], None] | None
) -> None:
    """Write and pass on what is known of a build that failed; a note on the error says where it is.

    An option that was not understood or a user who interrupts is no build that failed.
    """
    known = error if isinstance(error, GolfpackError) else None
    code = ExitCode.INTERNAL if known is None else known.exit_code
    began = attempt.model is not None or isinstance(error, BudgetError)
    if code == ExitCode.INTERRUPTED or not began:
        return
    failed = _failed(attempt, error, code)
    if on_failure is not None:
        on_failure(failed)
    if attempt.options.dry_run:
        return
    path = output_of(attempt.options).with_suffix(FAILED_REPORT)
    # What went wrong first matters more than a report that cannot be written.
    with suppress(UsageError):
        save(failed, path)
        error.add_note(f"the report of this failure is {path}")


def _failed(attempt: Attempt, error: Exception, code: ExitCode) -> FailedBuild:
    options, model, recipe = attempt.options, attempt.model, attempt.recipe
    says = error.message if isinstance(error, GolfpackError) else f"{type(error).__name__}: {error}"
    return FailedBuild(
        error=says,
        hint=error.hint if isinstance(error, GolfpackError) else None,
        exit_code=int(code),
        checkpoint=str(options.inputs.checkpoint),
        checkpoint_sha256=None if model is None else model.sha256,
        family=None if model is None else model.family.name,
        config={} if model is None else model.config,
        assumed={} if model is None else model.assumed,
        recipe=None if recipe is None else recipe.name,
        parameters=None if model is None else model.spec.numel,
        budget_bytes=None if attempt.budget is None else attempt.budget.total,
        code_bytes=None if attempt.budget is None else attempt.budget.code,
        shortfall=error.shortfall if isinstance(error, BudgetError) else None,
        calibration=None if attempt.prepared is None else attempt.prepared.calibration,
        notes=[] if model is None else list(model.notes),
        warnings=attempt.warnings,
        seconds=attempt.clock.seconds,
        options=recorded_options(options, attempt.budget),
        passes=[] if recipe is None else pass_tables(recipe),
        search={} if recipe is None else vars(recipe.search),
        calibrates="none" if recipe is None else recipe.calibration,
        inputs=attempt.inputs,
        argv=list(options.argv),
    )
