"""`golfpack eval`: a checkpoint or an artifact -> bits per byte, with the byte audit."""

import hashlib
from pathlib import Path

import numpy as np

from golfpack.api.models import LoadedModel, open_pair
from golfpack.data.shards import read_tokens
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, audit, loss_and_bpb
from golfpack.eval.plain import Score, score_plain
from golfpack.models import find_family
from golfpack.models.base import check_device
from golfpack.models.checkpoint import build_model
from golfpack.packer.state import Notify, silent
from golfpack.report.reports import EvalReport


def evaluate(
    path: Path,
    tokens_pattern: str,
    tokenizer: Path,
    *,
    window: int | None = None,
    limit: int | None = None,
    mode: str = "plain",
    settings: tuple[str, ...] = (),
    baseline: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    argv: list[str] | None = None,
    notify: Notify = silent,
) -> EvalReport:
    """Score a checkpoint or an artifact on a token stream, in bits per byte.

    Args:
        path: checkpoint or `.golf` file.
        limit: tokens read from the shard; targets are one fewer.
        window: targets per window; None for the model's trained length.
        settings: "model.option=value" of the checkpoints; an artifact carries its own.
        baseline: float checkpoint to score too, for the quantisation gap.
        device: "cpu" or "cuda".

    Raises:
        UsageError: bad input. CorruptError: damaged artifact, or the byte audit failed.
    """
    if mode != "plain":
        raise UsageError(f"unknown mode {mode!r}", "the modes are: plain")
    check_device(device)
    loaded, float_model = open_pair(path, baseline, settings)
    window = _window(loaded, window)
    sp = load_tokenizer(tokenizer)
    table = ByteTable.from_tokenizer(sp, loaded.config["vocab_size"])
    tokens = read_tokens(tokens_pattern, limit)
    counts = table.count(tokens)
    audited = audit(sp, table, tokens)

    done = _score(loaded, "score", tokens, window, threads, device, notify)
    val_loss, val_bpb = loss_and_bpb(done.nll, counts)
    float_bpb = None
    if float_model is not None:
        float_done = _score(float_model, "score float", tokens, window, threads, device, notify)
        float_bpb = loss_and_bpb(float_done.nll, counts)[1]
    return EvalReport(
        model=str(path),
        model_sha256=loaded.sha256,
        model_bytes=path.stat().st_size,
        family=loaded.family,
        config=loaded.config,
        assumed=loaded.assumed,
        tokens=tokens_pattern,
        tokens_sha256=hashlib.sha256(tokens.astype("<u2").tobytes()).hexdigest(),
        tokenizer=str(tokenizer),
        mode=mode,
        window=window,
        val_loss=val_loss,
        val_bpb=val_bpb,
        scored_tokens=len(tokens) - 1,
        scored_bytes=int(counts.sum()),
        byte_audit=dict(vars(audited)),
        seconds=done.seconds,
        float_bpb=float_bpb,
        quant_gap=None if float_bpb is None else val_bpb - float_bpb,
        argv=argv or [],
    )


def _score(
    model: LoadedModel,
    stage: str,
    tokens: np.ndarray,
    window: int,
    threads: int,
    device: str,
    notify: Notify,
) -> Score:
    done = score_plain(
        build_model(model.family, model.config, model.weights), tokens, window,
        threads=threads, device=device, progress=lambda d, t, note: notify(stage, d, t, note),
    )  # fmt: skip
    assert done.scored_tokens == len(tokens) - 1
    return done


def _window(loaded: LoadedModel, window: int | None) -> int:
    """The window asked for, or the model's trained length; refused beyond what the model can take."""
    if window is None:
        window = int(loaded.config.get("seq_len", 1024))
    longest = find_family(loaded.family).max_length(loaded.config)
    if longest is not None and window > longest:
        raise UsageError(
            f"a window of {window} is beyond the {longest} positions this model has learned",
            f"use --window {longest} or less",
        )
    return window
