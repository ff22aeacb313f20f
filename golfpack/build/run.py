"""`golfpack build`: checkpoint -> calibration -> passes -> verified artifact -> report."""

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np

from golfpack.base.documents import save, to_json
from golfpack.base.files import write_atomically
from golfpack.base.progress import Notify, silent
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
from golfpack.build.helpers import NO_HELP, Helpers
from golfpack.build.losses import measure_losses
from golfpack.build.options import BuildOptions, no_one_aim
from golfpack.build.overwrite import check_replaceable
from golfpack.build.pack import Packed, Target, in_sequence, searched
from golfpack.build.prepare import (
    Prepared,
    check_output,
    code_bytes,
    measures,
    prepare,
    read_model,
    with_its_tokenizer,
)
from golfpack.build.rebuild import check_inputs, kept_apart, told_result
from golfpack.build.refine import Refined, Refiner
from golfpack.build.refine_time import auto_tokens
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.errors import BudgetError, StrictError, UsageError
from golfpack.models.model import Model
from golfpack.models.tensors import TENSORS
from golfpack.packer.aim import (
    Aim,
    Bpb,
    Budget,
    Bytes,
    Kl,
    Lossless,
    least_bytes,
    told_bits,
    told_bytes,
)
from golfpack.packer.format.container import TOKENIZER_STREAM
from golfpack.packer.format.loader import Artifact, loads
from golfpack.packer.passes.awq import Awq
from golfpack.packer.predict import frontier, kl_ratio, quadratic_kl
from golfpack.packer.rate import RateModel
from golfpack.packer.recipe import Recipe
from golfpack.packer.search import kept_exact
from golfpack.packer.state import PackState, quantized_names, run_passes

# Below this many bits per weight the loss is often large: where nothing measures it, they are refused.
THIN_BPW = 3.0
# A tokenizer inside that takes this share of the file is worth a note.
MUCH_TOKENIZER = 0.1
# Files fill their budgets but for a little: a share of them.
HEADROOM = 0.01


def build(
    options: BuildOptions,
    notify: Notify = silent,
    on_failure: Callable[[FailedBuild], None] | None = None,
    helpers: Helpers = NO_HELP,
) -> BuildReport:
    """Compile a checkpoint into an artifact within the budget, and report on it.

    A build that fails once its inputs are read leaves NAME.failed.report.json.

    Args:
        options: what to build.
        notify: progress.
        on_failure: called with what that file holds; after a dry run, too, which writes none.
        helpers: processes that take their parts of the tokens; see `together.build_together`.

    Raises:
        UsageError: bad input. BudgetError: nothing fits. StrictError: a warning, under `strict`.
    """
    if not options.dry_run:
        check_output(output_of(options), options.inputs.checkpoint)
    options = with_its_tokenizer(options)
    attempt = Attempt(options)
    try:
        return _build(options, attempt, notify, helpers)
    except Exception as e:
        report_failure(attempt, e, on_failure)
        raise


def _build(
    options: BuildOptions, attempt: Attempt, notify: Notify, helpers: Helpers
) -> BuildReport:
    clock = attempt.clock
    aim = options.goal.aim
    notify("read", 0, 0, options.inputs.checkpoint.name)
    model, recipe = read_model(options, [aim] if isinstance(aim, Bytes) else [])
    if not options.dry_run:
        check_replaceable(output_of(options), model.sha256, force=options.force)
    aim, budget = _aim(options, recipe, model)
    _check_extras(options, recipe)
    with clock.measure("calibrate"):
        attempt.begin(model, recipe, budget)
        differing = check_inputs(options, model, attempt.inputs)
        prepared = attempt.prepared = prepare(model, recipe, options, notify, helpers)
        target = Target(budget, _target_kl(aim, prepared))
    with clock.measure("pack"):
        ready = _ready(options, prepared, target, differing, notify)
        if options.lossless:
            state = run_passes(recipe.round, ready)
        else:
            state = searched(prepared, ready, target)
    if options.goal.recalibrate:
        with clock.measure("recalibrate"):
            again = prepared.recalibrated(state, notify)
            ready = again.ready(target.limit, notify, ready.warnings)
            state = searched(prepared, ready, target)
    packed = Packed(state, state)
    if recipe.search.in_sequence and not options.lossless:
        with clock.measure("in sequence"):
            packed = in_sequence(prepared, ready, state, target)
    state = packed.state
    refined = Refined(state)
    if options.goal.refine:
        with clock.measure("refine"):
            asked = options.goal.refine
            tokens = auto_tokens(prepared) if asked == "auto" else asked
            refined = Refiner(
                prepared, ready, packed.searched, state, tokens, asked == "auto", options.goal.refine_on,
                target.limit, target.kl,
            ).run()  # fmt: skip
            state = refined.state
    with clock.measure("verify"):
        artifact = _verified(state)
        state = _told_tokenizer(state, artifact)
        loss = _loss(prepared, ready, state, refined, quadratic=packed.sequence is None)
    state = told_result(
        options.goal.replay, _told_unmeasured(state), prepared, loss.measured, differing
    )
    attempt.warnings = list(state.warnings)
    if options.goal.strict and state.warnings:
        raise StrictError(f"--strict: {state.warnings[0]}", "drop --strict to accept it")
    output = None if options.dry_run else _output(options, artifact)
    report = build_report(
        attempt,
        Built(prepared, ready, state, artifact, loss, output, refined.report, packed.sequence),
    )
    to_json(report)  # before anything is written: an artifact has a report beside it
    if output is not None:
        assert state.blob is not None
        write_atomically(output, state.blob)
        save(report, output.with_suffix(REPORT))
        output.with_suffix(FAILED_REPORT).unlink(missing_ok=True)
    return report


def _ready(
    options: BuildOptions,
    prepared: Prepared,
    target: Target,
    warnings: tuple[str, ...],
    notify: Notify,
) -> PackState:
    """The state as the search gets it."""
    if options.lossless:
        return kept_exact(replace(prepared.state(None, notify), warnings=warnings))
    ready = prepared.ready(target.limit, notify, warnings)
    plan, stats = options.goal.plan, prepared.stats
    if plan is not None and plan.calibration_sha256 != (stats and stats.tokens_sha256):
        ready = ready.warn("the plan was made with other calibration tokens")
    return ready


def _aim(options: BuildOptions, recipe: Recipe, model: Model) -> tuple[Aim, Budget | None]:
    """What is aimed at, and its budget in bytes where that is what rules.

    Raises:
        UsageError: nothing was asked for, or a target that nothing measures.
        BudgetError: few bits per weight, and nothing measures what they cost.
    """
    goal, inputs = options.goal, options.inputs
    aim = goal.aim
    if aim is None and goal.plan is not None and goal.plan.budget_bytes is not None:
        if goal.plan.code_bytes and not inputs.code:
            raise UsageError(
                f"{goal.plan.code_bytes:,} bytes of the plan's budget are for code",
                "add --code FILE, or give another --budget",
            )
        aim = Bytes(goal.plan.budget_bytes)
    if aim is None:
        raise no_one_aim()
    code = code_bytes(inputs.code)
    if isinstance(aim, Bytes):
        budget = Budget(aim.total(model.spec.numel), code)
        if not (goal.blind or measures(options, recipe)):
            _check_thin(model, budget)
        return aim, budget
    if isinstance(aim, Lossless):
        _check_lossless(options, model)
    elif not measures(options, recipe):
        raise UsageError(
            "a target needs calibration tokens to measure against", "drop --data-free, add --calib"
        )
    if isinstance(aim, Bpb) and inputs.tokenizer is None:
        raise UsageError("--target-bpb needs bytes per token", "add --tokenizer FILE.model")
    return aim, None


def _check_thin(model: Model, budget: Budget) -> None:
    """Refuse few bits per weight where nothing would tell what they cost.

    Raises:
        BudgetError: without a shortfall; a file that small could be made.
    """
    spec = model.spec
    least = least_bytes(THIN_BPW, spec)
    if budget.artifact >= least:
        return
    measure = "" if model.family is TENSORS else "calibrate (--calib, no --data-free), "
    raise BudgetError(
        f"to fit into the budget of {told_bytes(budget)} it needs {told_bits(spec, budget.artifact)}, "
        f"and without calibration nobody knows what so few cost: below {THIN_BPW:g} it is often much",
        f"{measure}raise the budget to {least + budget.code:,} bytes or more, train a smaller model, or "
        "add --blind to build it all the same",
    )


def _check_extras(options: BuildOptions, recipe: Recipe) -> None:
    """Raise UsageError for methods that do not go together."""
    goal = options.goal
    if goal.recalibrate and any(isinstance(p, Awq) and p.fold for p in recipe.prepare):
        raise UsageError(
            "--recalibrate does not go with folded column factors", "add --set awq.fold=false"
        )
    if goal.refine and options.unmeasured:
        raise UsageError(
            "--refine trains on calibration tokens", "drop --refine, or --data-free and --lossless"
        )
    if goal.refine_on == "labels":
        _check_labels(options)


def _check_labels(options: BuildOptions) -> None:
    """Raise UsageError where there is nothing to train on what real text goes on with."""
    goal = options.goal
    if not goal.refine:
        raise UsageError(
            "--refine-on labels says what to train for, and nothing is trained",
            "add --refine TOKENS or --refine auto",
        )
    if options.inputs.calib is None:
        raise UsageError(
            "--refine-on labels trains on what real text goes on with, and without --calib there is "
            "none: text that the model writes says no more than its own predictions",
            "add --calib with training text, or drop --refine-on labels",
        )
    if isinstance(goal.aim, Kl | Bpb):
        raise UsageError(
            "--refine-on labels moves away from the float model's predictions, and a target is a KL to "
            "them",
            "give a --budget, or drop --refine-on labels",
        )


def _check_lossless(options: BuildOptions, model: Model) -> None:
    if options.goal.recalibrate:
        raise UsageError("--recalibrate has nothing to do under --lossless", "drop one of the two")
    for name, dtype in model.dtypes.items():
        if dtype == "float64":
            raise UsageError(
                f"tensor {name!r} is float64; an artifact holds float32 at most",
                "convert it to float32 first, or give a budget",
            )


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


def _told_tokenizer(state: PackState, artifact: Artifact) -> PackState:
    """The state, with a note where a tokenizer inside takes much of what weights could have had."""
    inside = len(artifact.container.streams.get(TOKENIZER_STREAM, b""))
    if inside < MUCH_TOKENIZER * state.size:
        return state
    left = 8 * (state.size - inside) / max(state.spec.numel, 1)
    return state.note(
        f"the tokenizer takes {inside:,} of {state.size:,} bytes and leaves {left:.3f} bits per weight: "
        "a larger budget, or a build without --with-tokenizer, has more for weights"
    )


def _target_kl(aim: Aim, prepared: Prepared) -> float | None:
    """The KL asked for in place of a budget, nats per token."""
    if isinstance(aim, Kl):
        return aim.target
    if not isinstance(aim, Bpb):
        return None
    assert prepared.bytes_per_token is not None
    return aim.target * log(2) * prepared.bytes_per_token


def _verified(state: PackState) -> Artifact:
    """Decode the finished bytes with the loader and compare every tensor bit for bit."""
    assert state.blob is not None
    state.notify("verify", 0, 0, f"{state.size:,} bytes, decoded again")
    artifact = loads(state.blob)
    assert set(artifact.tensors) == set(state.tensors)
    assert artifact.tokenizer == state.tokenizer
    for name, (_, tensor) in artifact.tensors.items():
        expected = state.tensors[name].dequantize()
        if not np.array_equal(tensor.dequantize(), expected.reshape(tensor.dequantize().shape)):
            raise AssertionError(f"tensor {name} does not decode to what was encoded")
    return artifact


def _loss(
    prepared: Prepared, ready: PackState, built: PackState, refined: Refined, quadratic: bool
) -> Loss:
    """Losses by measurement, and the KL by prediction.

    Args:
        quadratic: whether what is lost are rounding errors alone.
    """
    if built.measure is None:
        return Loss()
    built.notify("verify", 0, 0, "what it loses on text that it was not made with")
    texts = refined.losses or measure_losses(prepared, built.tensors, built.notify)
    measured = texts[0].kl
    if refined.report is not None or not quadratic:
        points = frontier(RateModel(ready), built.dial, built.size, measured)
        return Loss(measured, texts, frontier=tuple(points))
    if prepared.stats is None or not prepared.recipe.gradients or not built.steps:
        return Loss(measured, texts)
    if not prepared.recipe.search.loses(measured):
        # Where nothing is lost there is nothing to predict: the probe would be a third of the time.
        points = frontier(RateModel(ready), built.dial, built.size, measured)
        return Loss(measured, texts, frontier=tuple(points))
    ratio = kl_ratio(ready, prepared.recipe)
    if ratio is None:
        return Loss(measured, texts)
    predicted = ratio * quadratic_kl(built)
    points = frontier(RateModel(ready), built.dial, built.size, predicted)
    return Loss(measured, texts, predicted, ratio, tuple(points))


def _output(options: BuildOptions, artifact: Artifact) -> Path:
    """Where the artifact is to be written."""
    return kept_apart(options.goal.replay, output_of(options), artifact.container.sha256)
