"""`golfpack build`: checkpoint -> calibration -> passes -> verified artifact -> report."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, isfinite, log
from pathlib import Path

import numpy as np

from golfpack.base.documents import save
from golfpack.base.files import write_atomically
from golfpack.base.progress import (
    Notify,
    silent,
)
from golfpack.base.sizes import parse_size
from golfpack.build.attempt import (
    FAILED_REPORT,
    REPORT,
    Attempt,
    Built,
    Loss,
    build_report,
    output_of,
    report_failure,
)
from golfpack.build.planfile import PlanFile
from golfpack.build.prepare import (
    BuildOptions,
    Prepared,
    check_output,
    code_bytes,
    load_inputs,
    prepare,
    recalibrated,
)
from golfpack.build.rebuild import (
    check_inputs,
    kept_apart,
    told_result,
)
from golfpack.build.refine import Refiner
from golfpack.build.report import (
    BuildReport,
    FailedBuild,
    Refinement,
)
from golfpack.errors import (
    BudgetError,
    StrictError,
    UsageError,
)
from golfpack.models.model import Model
from golfpack.models.tensors import TENSORS
from golfpack.packer.format.loader import (
    Artifact,
    loads,
)
from golfpack.packer.passes.awq import Awq
from golfpack.packer.predict import (
    frontier,
    kl_ratio,
    quadratic_kl,
    split_at_fit,
)
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.rate import RateModel
from golfpack.packer.recipe import Recipe
from golfpack.packer.search import (
    Fit,
    told_bits,
    told_bytes,
)
from golfpack.packer.state import (
    UNLIMITED,
    Budget,
    PackState,
    Pass,
    quantized_names,
    run_passes,
)

# Below this many bits per weight the loss is often large: where nothing measures it, they are refused.
THIN_BPW = 3.0
# Files fill their budgets but for a little: a share of them.
HEADROOM = 0.01


def build(
    options: BuildOptions,
    notify: Notify = silent,
    on_failure: Callable[[FailedBuild], None] | None = None,
) -> BuildReport:
    """Compile a checkpoint into an artifact within the budget, and report on it.

    A build that fails once its inputs are read leaves NAME.failed.report.json.

    Args:
        options: what to build.
        notify: progress.
        on_failure: called with what that file holds; after a dry run, too, which writes none.

    Raises:
        UsageError: bad input. BudgetError: nothing fits. StrictError: a warning, under `strict`.
    """
    if not options.dry_run:
        check_output(output_of(options), options.checkpoint)
    attempt = Attempt(options)
    try:
        return _build(options, attempt, notify)
    except Exception as e:
        report_failure(attempt, e, on_failure)
        raise


def _build(options: BuildOptions, attempt: Attempt, notify: Notify) -> BuildReport:
    clock = attempt.clock
    asked = [] if options.budget is None else [options.budget]
    notify("read", 0, 0, options.checkpoint.name)
    checkpoint, recipe = load_inputs(options, asked)
    budget = _budget(options, recipe, checkpoint)
    before, fit = split_at_fit(recipe.passes)
    _check_extras(options, before)
    _check_measured(options, recipe, checkpoint, budget)
    with clock.measure("calibrate"):
        attempt.begin(checkpoint, recipe, budget)
        told = check_inputs(options, checkpoint, attempt.inputs)
        prepared = attempt.prepared = prepare(checkpoint, recipe, options, notify)
    with clock.measure("pack"):
        state = prepared.state(budget, options.threads, notify)
        state = replace(state, target_kl=_target_kl(options, prepared), warnings=told)
        state = (
            _kept(state) if options.lossless else run_passes(before, _as_planned(options, state))
        )
        ready = state
        state = run_passes(fit.body if options.lossless else [fit], state)
    if options.recalibrate:
        with clock.measure("recalibrate"):
            stats = recalibrated(prepared, state, options, notify)
            fresh = prepared.state(budget, options.threads, notify)
            again = replace(fresh, stats=stats, target_kl=state.target_kl, warnings=ready.warnings)
            ready = run_passes(before, again)
            state = run_passes([fit], ready)
    refined = None
    if options.refine:
        with clock.measure("refine"):
            state, refined = Refiner(options, prepared, ready, state, fit).run()
    with clock.measure("verify"):
        artifact = _verified(state)
        loss = _loss(prepared, ready, state, fit, refined)
    state = told_result(options, _told_unmeasured(state), prepared, told)
    attempt.warnings = list(state.warnings)
    if options.strict and state.warnings:
        raise StrictError(f"--strict: {state.warnings[0]}", "drop --strict to accept it")
    output = None if options.dry_run else _write(options, artifact, state.blob)
    report = build_report(attempt, Built(prepared, ready, state, artifact, loss, output, refined))
    if output is not None:
        save(report, output.with_suffix(REPORT))
        output.with_suffix(FAILED_REPORT).unlink(missing_ok=True)
    return report


def _budget(options: BuildOptions, recipe: Recipe, checkpoint: Model) -> Budget:
    """The budget, or none where a target rules. Raises UsageError unless exactly one is asked for."""
    asked = [options.budget, options.target_kl, options.target_bpb, options.lossless or None]
    given = sum(a is not None for a in asked)
    if given == 0 and options.plan is not None and options.plan.budget_bytes is not None:
        return _planned_budget(options.plan, options)
    if given != 1:
        raise UsageError(
            "say how large or how good the artifact is to be",
            "give exactly one of --budget, --target-kl, --target-bpb and --lossless",
        )
    for name, target in (("kl", options.target_kl), ("bpb", options.target_bpb)):
        if target is not None and not (isfinite(target) and target > 0):
            raise UsageError(f"--target-{name} {target} cannot be", "give a positive number")
    code = code_bytes(options.code)
    if options.budget is not None:
        return Budget(parse_size(options.budget, checkpoint.spec.numel), code)
    if options.lossless:
        _check_lossless(options, checkpoint)
        return Budget(UNLIMITED, code)
    if not _measures(options, recipe):
        raise UsageError(
            "a target needs calibration tokens to measure against", "drop --data-free, add --calib"
        )
    if options.target_bpb is not None and options.tokenizer is None:
        raise UsageError("--target-bpb needs bytes per token", "add --tokenizer FILE.model")
    return Budget(UNLIMITED, code)


def _measures(options: BuildOptions, recipe: Recipe) -> bool:
    """Whether there are calibration tokens, and so a KL."""
    return not options.data_free and (recipe.calibration != "none" or options.calib is not None)


def _check_measured(
    options: BuildOptions, recipe: Recipe, checkpoint: Model, budget: Budget
) -> None:
    """Refuse few bits per weight where nothing would tell what they cost.

    Raises:
        BudgetError: without a shortfall; a file that small could be made.
    """
    least = ceil(THIN_BPW * checkpoint.spec.numel / 8)
    if options.blind or budget.artifact >= least or _measures(options, recipe):
        return
    measure = "" if checkpoint.family is TENSORS else "calibrate (--calib, no --data-free), "
    raise BudgetError(
        f"to fit into the budget of {told_bytes(budget)} it needs {told_bits(checkpoint.spec, budget)}, "
        f"and without calibration nobody knows what so few cost: below {THIN_BPW:g} it is often much",
        f"{measure}raise the budget to {least + budget.code:,} bytes or more, train a smaller model, or "
        "add --blind to build it all the same",
    )


def _planned_budget(plan: PlanFile, options: BuildOptions) -> Budget:
    """The plan's own budget. Raises UsageError where it counts code that nobody names."""
    assert plan.budget_bytes is not None
    if plan.code_bytes and not options.code:
        raise UsageError(
            f"{plan.code_bytes:,} bytes of the plan's budget are for code",
            "add --code FILE, or give another --budget",
        )
    return Budget(plan.budget_bytes, code_bytes(options.code))


def _as_planned(options: BuildOptions, state: PackState) -> PackState:
    """The state, with a warning where a plan was made on other calibration tokens."""
    found = None if state.stats is None else state.stats.tokens_sha256
    if options.plan is None or found == options.plan.calibration_sha256:
        return state
    return state.warn("the plan was made with other calibration tokens")


def _check_extras(options: BuildOptions, before: Sequence[Pass]) -> None:
    if options.recalibrate and any(isinstance(p, Awq) and p.fold for p in before):
        raise UsageError(
            "--recalibrate does not go with folded column factors", "add --set awq.fold=false"
        )
    if options.refine and options.unmeasured:
        raise UsageError(
            "--refine trains on calibration tokens", "drop --refine, or --data-free and --lossless"
        )


def _check_lossless(options: BuildOptions, checkpoint: Model) -> None:
    if options.recalibrate:
        raise UsageError("--recalibrate has nothing to do under --lossless", "drop one of the two")
    for name, dtype in checkpoint.dtypes.items():
        if dtype == "float64":
            raise UsageError(
                f"tensor {name!r} is float64; an artifact holds float32 at most",
                "convert it to float32 first, or give a budget",
            )


def _kept(state: PackState) -> PackState:
    """A plan in place of the recipe's: every tensor in the narrowest float type that is exact."""
    return replace(state, plan={t.name: Keep("exact") for t in state.spec.tensors})


def _told_unmeasured(state: PackState) -> PackState:
    """The state, with a warning where few bits were left and nothing shows what that costs."""
    bits = 8 * state.size / max(state.spec.numel, 1)
    enough = bits >= (1 - HEADROOM) * THIN_BPW
    if state.measure is not None or enough or not quantized_names(state):
        return state
    return state.warn(
        f"{bits:.3f} bits per parameter, and without calibration nobody knows what that costs: below "
        f"about {THIN_BPW:g} bits it is often much, so score the artifact before it ships"
    )


def _target_kl(options: BuildOptions, prepared: Prepared) -> float | None:
    """The KL asked for in place of a budget, nats per token."""
    if options.target_bpb is None:
        return options.target_kl
    assert prepared.bytes_per_token is not None
    return options.target_bpb * log(2) * prepared.bytes_per_token


def _verified(state: PackState) -> Artifact:
    """Decode the finished bytes with the loader and compare every tensor bit for bit."""
    assert state.blob is not None
    state.notify("verify", 0, 0, f"{state.size:,} bytes, decoded again")
    artifact = loads(state.blob)
    assert set(artifact.tensors) == set(state.tensors)
    for name, (_, tensor) in artifact.tensors.items():
        expected = state.tensors[name].dequantize()
        if not np.array_equal(tensor.dequantize(), expected.reshape(tensor.dequantize().shape)):
            raise AssertionError(f"tensor {name} does not decode to what was encoded")
    return artifact


def _loss(
    prepared: Prepared, ready: PackState, done: PackState, fit: Fit, refined: Refinement | None
) -> Loss:
    """KL by prediction (before it is measured) and by measurement on held-out calibration tokens."""
    if done.measure is None:
        return Loss()
    if refined is not None:
        points = frontier(RateModel(ready), done.dial, done.size, refined.kl)
        return Loss(refined.kl, frontier=tuple(points))
    done.notify("verify", 0, 0, "KL to the float model on held-out calibration tokens")
    measured = done.measure(done.tensors)
    if prepared.stats is None or not prepared.recipe.gradients or not done.steps:
        return Loss(measured)
    ratio = kl_ratio(ready, fit)
    if ratio is None:
        return Loss(measured)
    predicted = ratio * quadratic_kl(done)
    points = frontier(RateModel(ready), done.dial, done.size, predicted)
    return Loss(measured, predicted, ratio, tuple(points))


def _write(options: BuildOptions, artifact: Artifact, blob: bytes | None) -> Path:
    assert blob is not None
    output = kept_apart(options, output_of(options), artifact.container.sha256)
    write_atomically(output, blob)
    return output
