"""`golfpack build`: checkpoint -> calibration -> passes -> verified artifact -> report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.api.models import checkpoint_stem
from golfpack.api.planfile import PlanFile
from golfpack.api.prepare import (
    BuildOptions,
    Prepared,
    check_output,
    code_bytes,
    load_inputs,
    prepare,
    recalibrated,
)
from golfpack.data.shards import write_atomically
from golfpack.errors import StrictError, UsageError
from golfpack.models.checkpoint import Checkpoint
from golfpack.models.device import peak_memory_bytes
from golfpack.packer.allocate import Fit
from golfpack.packer.loader import Artifact, loads
from golfpack.packer.passes.awq import Awq
from golfpack.packer.predict import kl_ratio, quadratic_kl, split_at_fit
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.recipe import Recipe
from golfpack.packer.sizes import parse_size
from golfpack.packer.state import (
    UNLIMITED,
    Budget,
    Notify,
    PackState,
    quantised_names,
    run_passes,
    silent,
)
from golfpack.report.reports import BuildReport, save
from golfpack.report.tensors import tensor_reports

# Artifacts below this many bits per weight are worth a warning where their loss was not measured.
THIN_BPW = 3.0


def build(options: BuildOptions, notify: Notify = silent) -> BuildReport:
    """Compile a checkpoint into an artifact within the budget, and report on it.

    Raises:
        UsageError: bad input. BudgetError: nothing fits. StrictError: a warning, under `strict`.
    """
    clock = _Clock()
    if not options.dry_run:
        check_output(_output(options), options.checkpoint)
    asked = [] if options.budget is None else [options.budget]
    checkpoint, recipe = load_inputs(options, asked)
    budget = _budget(options, recipe, checkpoint)
    before, fit = split_at_fit(recipe.passes)
    if options.recalibrate and any(isinstance(p, Awq) and p.fold for p in before):
        raise UsageError(
            "--recalibrate does not go with folded column factors", "add --set awq.fold=false"
        )
    with clock.measure("calibrate"):
        prepared = prepare(checkpoint, recipe, options, notify)
    with clock.measure("pack"):
        state = prepared.state(budget, options.threads, notify)
        state = replace(state, target_kl=_target_kl(options, prepared))
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
    with clock.measure("verify"):
        artifact = _verified(state)
        loss = _loss(prepared, ready, state, fit)
    state = _told_unmeasured(state)
    if options.strict and state.warnings:
        raise StrictError(f"--strict: {state.warnings[0]}", "drop --strict to accept it")
    output = None if options.dry_run else _write(options, state.blob)
    report = _report(options, prepared, state, artifact, output, loss, clock.seconds)
    if output is not None:
        save(report, output.with_suffix(".report.json"))
    return report


def _budget(options: BuildOptions, recipe: Recipe, checkpoint: Checkpoint) -> Budget:
    """The budget, or none where a target rules. Raises UsageError unless exactly one is asked for."""
    asked = [options.budget, options.target_kl, options.target_bpb, options.lossless or None]
    given = sum(a is not None for a in asked)
    if given == 0 and options.plan is not None and options.plan.budget_bytes is not None:
        return _planned_budget(options.plan, options)
    if given != 1:
        raise UsageError(
            "say how large or how good the artifact is to be",
            "give one of --budget, --target-kl, --target-bpb and --lossless",
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
    if options.data_free or (recipe.calibration == "none" and options.calib is None):
        raise UsageError(
            "a target needs calibration tokens to measure against", "drop --data-free, add --calib"
        )
    if options.target_bpb is not None and options.tokenizer is None:
        raise UsageError("--target-bpb needs bytes per token", "add --tokenizer FILE.model")
    return Budget(UNLIMITED, code)


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


def _check_lossless(options: BuildOptions, checkpoint: Checkpoint) -> None:
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
    if state.measure is not None or bits >= THIN_BPW or not quantised_names(state):
        return state
    return state.warn(
        f"{bits:.2f} bits per weight, and without calibration nobody knows what that costs: below "
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
    artifact = loads(state.blob)
    assert set(artifact.tensors) == set(state.tensors)
    for name, (_, tensor) in artifact.tensors.items():
        expected = state.tensors[name].dequantize()
        if not np.array_equal(tensor.dequantize(), expected.reshape(tensor.dequantize().shape)):
            raise AssertionError(f"tensor {name} does not decode to what was encoded")
    return artifact


@dataclass(frozen=True)
class _Loss:
    predicted_kl: float | None = None
    measured_kl: float | None = None


def _loss(prepared: Prepared, ready: PackState, done: PackState, fit: Fit) -> _Loss:
    """KL by prediction (before it is measured) and by measurement on held-out calibration tokens."""
    if done.measure is None:
        return _Loss()
    done.notify("verify", 0, 0, "KL to the float model on held-out calibration tokens")
    measured = done.measure(done.tensors)
    if prepared.stats is None or not prepared.recipe.gradients or not done.steps:
        return _Loss(None, measured)
    ratio = kl_ratio(ready, fit)
    return _Loss(None if ratio is None else ratio * quadratic_kl(done), measured)


def _output(options: BuildOptions) -> Path:
    return options.output or Path(checkpoint_stem(options.checkpoint) + ".golf")


def _write(options: BuildOptions, blob: bytes | None) -> Path:
    assert blob is not None
    output = _output(options)
    write_atomically(output, blob)
    return output


def _report(
    options: BuildOptions,
    prepared: Prepared,
    state: PackState,
    artifact: Artifact,
    output: Path | None,
    loss: _Loss,
    seconds: dict[str, float],
) -> BuildReport:
    checkpoint, size = prepared.checkpoint, artifact.container.size
    unlimited = options.lossless or state.target_kl is not None
    budget = None if unlimited else state.budget.total
    return BuildReport(
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        family=checkpoint.family,
        config=checkpoint.config,
        assumed=checkpoint.assumed,
        recipe=prepared.recipe.name,
        plan=None if options.plan is None else str(options.plan.path),
        settings=list(options.settings),
        seed=options.seed,
        parameters=checkpoint.spec.numel,
        budget_bytes=budget,
        code_bytes=state.budget.code,
        artifact=None if output is None else str(output),
        artifact_bytes=size,
        artifact_sha256=artifact.container.sha256,
        headroom_bytes=None if budget is None else state.budget.artifact - size,
        fixed_bytes=artifact.container.overhead,
        bits_per_weight=8 * size / checkpoint.spec.numel,
        dial=state.dial,
        trace=[[r.dial, r.artifact_bytes] for r in state.trace],
        calibration=prepared.calibration,
        predicted_kl=loss.predicted_kl,
        measured_kl=loss.measured_kl,
        measured_bpb=prepared.bpb(loss.measured_kl),
        notes=list(checkpoint.notes),
        warnings=list(state.warnings),
        seconds=seconds,
        allocation=None if state.allocation is None else asdict(state.allocation),
        pruning=[asdict(p) for p in state.pruning],
        codes=_code_configs(artifact),
        # Folded weights are other numbers for the same function; pruned ones are a loss.
        tensors=tensor_reports(artifact, state.floats, state.sensitivity, options.threads),
        argv=options.argv,
        device=prepared.backend.device,
        peak_memory_bytes=peak_memory_bytes(prepared.backend.device),
    )


def _code_configs(artifact: Artifact) -> list[dict[str, Any]]:
    """How each stream of codes is coded, as the file says it."""
    codes = artifact.container.manifest.get("codes") or []
    return [codes] if isinstance(codes, dict) else list(codes)


class _Clock:
    """Wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
