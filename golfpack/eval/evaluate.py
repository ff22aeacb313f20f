"""`golfpack eval`: a checkpoint or an artifact -> bits per byte, with proof that it is legal."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from golfpack.base.progress import Notify, silent
from golfpack.errors import StrictError
from golfpack.eval.bytes import loss_and_bpb
from golfpack.eval.inputs import Counted, EvalInputs, EvalOptions, read_inputs
from golfpack.eval.legality import Check, check_legality
from golfpack.eval.log import ScoreLog
from golfpack.eval.report import EvalReport
from golfpack.eval.scorer import Scorer
from golfpack.eval.spread import spread
from golfpack.models.device import peak_memory_bytes, watch_memory
from golfpack.models.folder import checkpoint_bytes
from golfpack.models.model import Model
from golfpack.models.ranks import Group, joined


def evaluate(options: EvalOptions, notify: Notify = silent) -> EvalReport:
    """Score a checkpoint or an artifact on a token stream, in bits per byte.

    Under torchrun all ranks call this, share the work, and return the same report.

    Raises:
        UsageError: bad input. CorruptError: damaged artifact, or the byte audit failed.
        StrictError: a warning or a failed legality check, under `strict`.
    """
    with joined(options.device) as group, _threads(options.threads):
        watch_memory(group.device)
        inputs = read_inputs(options, notify)
        _check_strict(options, inputs.warnings)
        run = _score(inputs.loaded, "score", inputs, options, group, notify)
        checks = _check(run, inputs, group, notify) if options.legality else []
        float_run = None
        if inputs.float_model is not None:
            float_run = _score(inputs.float_model, "score float", inputs, options, group, notify)
        warnings = [*inputs.warnings, *(_illegal(c) for c in checks if not c.passed)]
        _check_strict(options, warnings)
        return _report(options, inputs, run, checks, warnings, float_run, group)


@dataclass(frozen=True, eq=False)
class _Run:
    """One model scored: what scored it, its complete log, and the wall time."""

    scorer: Scorer
    log: ScoreLog
    seconds: float


def _score(
    model: Model,
    stage: str,
    inputs: EvalInputs,
    options: EvalOptions,
    group: Group,
    notify: Notify,
) -> _Run:
    scorer = Scorer(
        model.module(), model.spec, group.device, options.batch_tokens, options.compiled,
    )  # fmt: skip
    if options.compiled:
        notify("compile", 0, 0, "warm-up on random tokens")
        scorer.warm_up(_window(inputs))
    log = ScoreLog(
        len(inputs.tokens) - 1, inputs.target_bytes, ranks=group.size,
        progress=lambda done, total, note: notify(stage, done, total, note),
    )  # fmt: skip
    began = time.perf_counter()
    inputs.mode.run(scorer, inputs.stream, group, log)
    log.merge(group)
    assert log.complete, "every target must be scored"
    return _Run(scorer, log, time.perf_counter() - began)


def _check_strict(options: EvalOptions, warnings: Sequence[str]) -> None:
    """Before the scoring, for what is known by then, and after it."""
    if options.strict and warnings:
        raise StrictError(f"--strict: {warnings[-1]}", "drop --strict to accept it")


def _check(run: _Run, inputs: EvalInputs, group: Group, notify: Notify) -> list[Check]:
    vocab_size = inputs.loaded.config["vocab_size"]
    tell = lambda done, total, note: notify("legality", done, total, note)  # noqa: E731
    return check_legality(inputs.mode, run.scorer, inputs.tokens, vocab_size, group, run.log, tell)


def _window(inputs: EvalInputs) -> int:
    options = inputs.mode.options()
    return int(options["window"] if "window" in options else options["ttt"]["window"])


def _illegal(check: Check) -> str:
    return f"NOT A LEGAL RUN: the check of {check.name} failed ({check.measured})"


def _report(
    options: EvalOptions,
    inputs: EvalInputs,
    run: _Run,
    checks: list[Check],
    warnings: list[str],
    float_run: _Run | None,
    group: Group,
) -> EvalReport:
    val_loss, val_bpb = _figures(run, inputs)
    float_loss, float_bpb = (None, None) if float_run is None else _figures(float_run, inputs)
    size = inputs.target_bytes
    uncertain = (
        None if float_run is None or size is None else spread(float_run.log.nll, run.log.nll, size)
    )
    targets = len(inputs.tokens) - 1
    return EvalReport(
        model=str(options.model),
        model_sha256=inputs.loaded.sha256,
        model_bytes=checkpoint_bytes(options.model),
        family=inputs.loaded.family.name,
        config=inputs.loaded.config,
        assumed=inputs.loaded.assumed,
        tokens=options.tokens,
        tokens_sha256=inputs.tokens_sha256,
        mode=options.mode,
        ttt=inputs.ttt.name if inputs.ttt else "none",
        window=_window(inputs),
        options=inputs.mode.options(),
        val_loss=val_loss,
        val_bpb=val_bpb,
        targets=targets,
        scored_tokens=int((run.log.times == 1).sum()),
        documents=len(inputs.documents) - 1,
        seconds=run.seconds,
        tokens_per_second=targets / run.seconds,
        device=group.device.partition(":")[0],
        threads=options.threads,
        ranks=group.size,
        batch_tokens=run.scorer.batch_tokens,
        compiled=options.compiled,
        legality=[c.as_dict() for c in checks] if options.legality else None,
        warnings=warnings,
        float_bpb=float_bpb,
        quant_gap=None if float_bpb is None or val_bpb is None else val_bpb - float_bpb,
        float_loss=float_loss,
        spread=uncertain,
        per_document=run.log.by_document(inputs.documents, inputs.target_bytes)
        if options.per_document
        else None,
        per_position=run.log.by_position() if options.per_position else None,
        argv=options.argv,
        peak_memory_bytes=peak_memory_bytes(group.device),
        **_told_bytes(inputs.counted),
    )


def _figures(run: _Run, inputs: EvalInputs) -> tuple[float, float | None]:
    """Nats per token, and bits per byte where the tokens' bytes are known."""
    if inputs.target_bytes is None:
        return float(run.log.nll.mean()), None
    return loss_and_bpb(run.log.nll, inputs.target_bytes)


def _told_bytes(counted: Counted | None) -> dict[str, Any]:
    """What a report says of the text behind the tokens."""
    if counted is None:
        empty = (
            "tokenizer", "scored_bytes", "bytes_source", "byte_audit", "round_trip", "source_round_trip",
        )  # fmt: skip
        return dict.fromkeys(empty)
    source = counted.source_round_trip
    return {
        "tokenizer": counted.tokenizer,
        "tokenizer_sha256": counted.tokenizer_sha256,
        "scored_bytes": int(counted.target_bytes.sum()),
        "bytes_source": counted.bytes_source,
        "byte_audit": dict(vars(counted.byte_audit)),
        "round_trip": dict(vars(counted.round_trip)),
        "source_round_trip": None if source is None else dict(vars(source)),
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with this rank's share of CPU threads, and give the caller's setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
