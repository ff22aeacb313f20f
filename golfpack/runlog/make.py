"""A log -> the report on it: every figure, and what its reader should be warned of."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.kv.layout import LONG_CONTEXT, baseline, policy
from golfpack.runlog import figures
from golfpack.runlog.figures import Coverage
from golfpack.runlog.jsonl import whole
from golfpack.runlog.log import Evaluation, LogStep, RunLog
from golfpack.runlog.report import EvaluationRow, KvMemory, RunReport, SampleRow, StepRow

# What different systems call the length of the model's context.
CONTEXT_NAMES = ("block_size", "blockSize", "seq_len")
# Fields that a report has just as the log has them.
_TAKEN_OVER = (
    "system", "log", "run_id", "domain", "created", "updated", "out_dir", "device", "family", "size",
    "exp",     "parameters", "planned_steps", "files_line",
)  # fmt: skip


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
    valid = [e for e in run.evaluations if math.isfinite(e.val_loss)]
    best = min(valid, key=lambda e: e.val_loss, default=None)
    mentioned = [s.step for s in steps] + [e.step for e in run.evaluations]
    last_step = max(mentioned, default=None)
    final = figures.final_steps(steps)
    taken = figures.finite([s.step_ms for s in steps])
    return RunReport(
        run_dir=str(folder),
        **_as_logged(run),
        status=_status(run, last_step),
        step_seconds=math.fsum(taken) / 1000.0 if taken else None,
        last_step=last_step,
        coverage=covered,
        final_loss=_number(final[-1].loss) if final else None,
        min_loss=min(figures.finite([s.loss for s in steps]), default=None),
        best_val_loss=best.val_loss if best else None,
        best_val_step=best.step if best else None,
        mean_step_ms=figures.mean(taken),
        mean_tokens_per_second=figures.mean([s.tokens_per_second for s in steps]),
        ranges=figures.loss_ranges(steps),
        milestones=[_row(s, val) for s in figures.milestones(steps)],
        final_steps=[_row(s, val) for s in final],
        evaluations=[_evaluation(e) for e in run.evaluations],
        gradients=figures.gradient_norms(steps),
        timing=figures.timing(steps),
        files=dict(files),
        kv_cache=memory,
        warnings=[*run.warnings, *complaints, *_warnings(run, covered)],
        notes=dict(notes),
    )


def _as_logged(run: RunLog) -> dict[str, Any]:
    """What a report takes over from the log."""
    losses = {s.step: _number(s.loss) for s in run.steps}
    return {
        **{name: getattr(run, name) for name in _TAKEN_OVER},
        "seconds": _number(run.seconds),
        "command": list(run.command),
        "model": _plain(run.model),
        "args": _plain(run.args),
        "samples": [
            SampleRow(s.step, losses.get(s.step), s.prompt, s.text, s.settings) for s in run.samples
        ],
        "checkpoints": list(run.checkpoints),
        "resumed": list(run.resumed),
        "infrastructure": dict(run.infrastructure),
        "data": dict(run.data),
        "errors": list(run.errors),
    }


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


def _evaluation(e: Evaluation) -> EvaluationRow:
    gap = None if e.train_loss is None else _number(e.val_loss - e.train_loss)
    return EvaluationRow(e.step, _number(e.train_loss), _number(e.val_loss), gap)


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
