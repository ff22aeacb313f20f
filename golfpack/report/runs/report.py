"""The document of `golfpack runreport`: everything its two markdown forms say, and no more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.report.kv_cache import LONG_CONTEXT, baseline, policy
from golfpack.report.reports import SCHEMA_VERSION, versions
from golfpack.report.runs import figures
from golfpack.report.runs.figures import Coverage, GradientNorms, LossRange, Timing
from golfpack.report.runs.jsonl import whole
from golfpack.report.runs.log import LogError, LogStep, RunLog

# What different systems call the length of the model's context.
CONTEXT_NAMES = ("block_size", "blockSize", "seq_len")


@dataclass(frozen=True)
class StepRow:
    """One record of a step, as tables show it; None for what the log does not say.

    Attributes:
        loss, val_loss: nats per token.
        grad_norm: before clipping.
        step_ms: milliseconds of the step.
    """

    step: int
    loss: float | None
    val_loss: float | None
    grad_norm: float | None
    lr: float | None
    tokens_per_second: float | None
    step_ms: float | None


@dataclass(frozen=True)
class EvaluationRow:
    """A validation, nats per token: `gap` = val_loss - train_loss."""

    step: int
    train_loss: float | None
    val_loss: float | None
    gap: float | None


@dataclass(frozen=True)
class SampleRow:
    """Text the model wrote at a step.

    Attributes:
        loss: of the step, nats per token; None where it has no record.
        prompt: empty for the start of a document.
        settings: how it was sampled.
    """

    step: int
    loss: float | None
    prompt: str
    text: str
    settings: str


@dataclass(frozen=True)
class KvMemory:
    """Bytes of keys and values of one sequence; see `report.kv_cache`.

    Attributes:
        context: tokens of the model's own context.
        baseline_bytes: standard attention of the same depth and width in fp16, at that context.
        bytes, long_bytes: this run's attention and cache formats, at its context and at 128,000.
        ratio: baseline_bytes / bytes.
        formats: format of each cached tensor.
    """

    context: int
    baseline_bytes: int
    bytes: int
    ratio: float
    long_context: int
    long_bytes: int
    formats: dict[str, str]


@dataclass(frozen=True)
class RunReport:
    """What `golfpack runreport` found in a run's folder. Losses are in nats per token.

    Attributes:
        system: which program wrote the log: golfpack, bottleneck or alpha.
        log: name of the log file.
        status: completed, started, "stopped at step N" or "failed at step N: why".
        created, updated: ISO 8601, as logged.
        seconds: how long the run took, as far as the log tells; step_seconds: sum over its records.
        command: of the run, as it was started.
        size, exp: preset names of a bottleneck run.
        model, args: configuration of the model and of the training, as logged.
        parameters: number of weights, None where neither log nor configuration tell.
        planned_steps: None where the budget was not in steps.
        last_step: the last that the log mentions; None where it mentions none.
        best_val_step: the step of the lowest validation loss.
        files: bytes of each file in the folder.
        files_line: what a Run Summary says of the files in place of `files`, or None.
        kv_cache: None where the configuration does not tell what is cached.
        errors: what the log says went wrong; warnings: what the reader of this report should know.
        notes: prose from `--notes`, by section.
    """

    run_dir: str
    system: str
    log: str
    run_id: str
    domain: str | None
    status: str
    created: str | None
    updated: str | None
    seconds: float | None
    step_seconds: float | None
    out_dir: str
    device: str
    command: list[str]
    size: str | None
    exp: str | None
    model: dict[str, Any]
    args: dict[str, Any]
    parameters: int | None
    planned_steps: int | None
    last_step: int | None
    coverage: Coverage
    final_loss: float | None
    min_loss: float | None
    best_val_loss: float | None
    best_val_step: int | None
    mean_step_ms: float | None
    mean_tokens_per_second: float | None
    ranges: list[LossRange]
    milestones: list[StepRow]
    final_steps: list[StepRow]
    evaluations: list[EvaluationRow]
    gradients: GradientNorms | None
    timing: Timing | None
    samples: list[SampleRow]
    checkpoints: list[int]
    resumed: list[int]
    files: dict[str, int]
    files_line: str | None
    infrastructure: dict[str, str]
    data: dict[str, str]
    kv_cache: KvMemory | None
    errors: list[LogError]
    warnings: list[str]
    notes: dict[str, str]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


def make_report(
    folder: Path, run: RunLog, files: Mapping[str, int], notes: Mapping[str, str]
) -> RunReport:
    """All figures of a run.

    Args:
        files: bytes of each file in the folder, by name.
        notes: prose by section, from `notes.read_notes`.
    """
    steps = run.steps
    memory, complaints = _memory(run)
    covered = figures.coverage(steps, run.interval)
    val = {e.step: e.val_loss for e in run.evaluations}
    best = min(
        (e for e in run.evaluations if math.isfinite(e.val_loss)),
        key=lambda e: e.val_loss,
        default=None,
    )
    mentioned = [s.step for s in steps] + [e.step for e in run.evaluations]
    last_step = max(mentioned, default=None)
    ordered = sorted(steps, key=lambda s: s.step)
    losses = figures.finite([s.loss for s in steps])
    taken = figures.finite([s.step_ms for s in steps])
    return RunReport(
        run_dir=str(folder),
        system=run.system,
        log=run.log,
        run_id=run.run_id,
        domain=run.domain,
        status=_status(run, last_step),
        created=run.created,
        updated=run.updated,
        seconds=_number(run.seconds),
        step_seconds=math.fsum(taken) / 1000.0 if taken else None,
        out_dir=run.out_dir,
        device=run.device,
        command=list(run.command),
        size=run.size,
        exp=run.exp,
        model=_plain(run.model),
        args=_plain(run.args),
        parameters=run.parameters,
        planned_steps=run.planned_steps,
        last_step=last_step,
        coverage=covered,
        final_loss=_number(ordered[-1].loss) if ordered else None,
        min_loss=min(losses, default=None),
        best_val_loss=best.val_loss if best else None,
        best_val_step=best.step if best else None,
        mean_step_ms=figures.mean(taken),
        mean_tokens_per_second=figures.mean([s.tokens_per_second for s in steps]),
        ranges=figures.loss_ranges(steps),
        milestones=[_row(s, val) for s in figures.milestones(steps)],
        final_steps=[_row(s, val) for s in figures.final_steps(steps)],
        evaluations=[
            EvaluationRow(
                e.step, _number(e.train_loss), _number(e.val_loss), _gap(e.train_loss, e.val_loss)
            )
            for e in run.evaluations
        ],
        gradients=figures.gradient_norms(steps),
        timing=figures.timing(steps),
        samples=_samples(run),
        checkpoints=list(run.checkpoints),
        resumed=list(run.resumed),
        files=dict(files),
        files_line=run.files_line,
        infrastructure=dict(run.infrastructure),
        data=dict(run.data),
        kv_cache=memory,
        errors=list(run.errors),
        warnings=[*run.warnings, *complaints, *_warnings(run, covered)],
        notes=dict(notes),
    )


def kv_memory(model: Mapping[str, Any], args: Mapping[str, Any]) -> KvMemory:
    """What a model's cache takes in the formats of a run's arguments.

    Raises:
        UsageError: the configuration does not tell.
    """
    context = whole(next((model[name] for name in CONTEXT_NAMES if name in model), None))
    if context is None:
        raise UsageError("this model configuration does not tell its context length")
    cache, standard = policy(model, args), baseline(model).bytes(context)
    return KvMemory(
        context=context,
        baseline_bytes=standard,
        bytes=cache.bytes(context),
        ratio=standard / cache.bytes(context),
        long_context=LONG_CONTEXT,
        long_bytes=cache.bytes(LONG_CONTEXT),
        formats={t.name: t.format for t in cache.tensors},
    )


def _memory(run: RunLog) -> tuple[KvMemory | None, list[str]]:
    if not run.model:
        return None, ["the log has no model configuration: no KV-cache memory, no shape"]
    try:
        return kv_memory(run.model, run.args), []
    except UsageError as error:
        return None, [f"no KV-cache memory: {error.message}"]


def _status(run: RunLog, last_step: int | None) -> str:
    failures = [e for e in run.errors if e.kind == "training"]
    if run.finished or (run.planned_steps and (last_step or 0) >= run.planned_steps):
        return "completed"
    if failures:
        return f"failed at step {failures[-1].step:,}: {failures[-1].message}"
    return "started" if last_step is None else f"stopped at step {last_step:,}"


def _warnings(run: RunLog, covered: Coverage) -> list[str]:
    """What a table alone would not make plain."""
    found = []
    if covered.missing:
        found.append(f"{covered.missing:,} of {covered.expected:,} steps have no record")
    if covered.duplicates:
        found.append(f"{covered.duplicates:,} records repeat a step")
    if covered.nonfinite:
        found.append(f"{covered.nonfinite:,} records have a loss or norm that is not finite")
    for kind in dict.fromkeys(e.kind for e in run.errors):
        of_kind = [e for e in run.errors if e.kind == kind]
        found.append(f"{len(of_kind):,} {kind} records are errors: {of_kind[0].message}")
    return found


def _row(step: LogStep, val: Mapping[int, float]) -> StepRow:
    return StepRow(
        step=step.step,
        loss=_number(step.loss),
        val_loss=_number(val.get(step.step)),
        grad_norm=_number(step.grad_norm),
        lr=_number(step.lr),
        tokens_per_second=_number(step.tokens_per_second),
        step_ms=_number(step.step_ms),
    )


def _samples(run: RunLog) -> list[SampleRow]:
    losses = {s.step: _number(s.loss) for s in run.steps}
    return [
        SampleRow(s.step, losses.get(s.step), s.prompt, s.text, s.settings) for s in run.samples
    ]


def _gap(train_loss: float | None, val_loss: float) -> float | None:
    return None if train_loss is None else _number(val_loss - train_loss)


def _plain(value: Any) -> Any:
    """A logged value with None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float | None) -> float | None:
    """None for what is no finite number: JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None
