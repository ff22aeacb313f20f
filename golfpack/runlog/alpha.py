"""Runs of thomasdavis/alpha2: a folder with `config.json` and one record a step in `metrics.jsonl`.

Records: step, loss, valLoss?, lr, gradNorm (before clipping), tokens_per_sec, ms_per_iter,
timing_*_ms, gpu_*. There are no times of day; the run's id starts with that of its start, in UTC.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from golfpack.runlog.jsonl import Line, counted, text, whole
from golfpack.runlog.log import Evaluation, LogStep, RunLog
from golfpack.runlog.shapes import alpha_parameters

LOG = "metrics.jsonl"
CONFIG = "config.json"
_PHASES = {
    "forward": ("timing_fwd_ms",),
    "backward": ("timing_bwd_ms",),
    "optimiser": ("timing_optim_ms",),
    "grad_norm": ("timing_grad_norm_ms", "timing_grad_clip_ms"),
    "flush": ("timing_flush_ms",),
    "data": ("timing_data_ms",),
}
_GPU = {
    "GPU VRAM Used": ("gpu_vram_used_mb", " MB"),
    "GPU VRAM Total": ("gpu_vram_total_mb", " MB"),
    "GPU Memory Pool": ("gpu_mem_pool_mb", " MB"),
    "GPU Ops/Step": ("gpu_ops_count", ""),
}
_RUN_ID = re.compile(r"(?<!\d)\d{14}(?!\d)")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.json(?:\.gz)?")


def read(folder: Path, config: Line, lines: Sequence[Line], warnings: Sequence[str]) -> RunLog:
    """The run. Raises CorruptError, naming the line, where a record cannot be read."""
    model, args = config.object_at("modelConfig"), config.object_at("trainConfig")
    run_id = text(config.data.get("runId")) or folder.resolve().name
    planned = whole(args.get("iters"))
    saved = (_CHECKPOINT.fullmatch(p.name) for p in folder.glob("checkpoint-*"))
    return RunLog(
        system="alpha",
        log=LOG,
        run_id=run_id,
        domain=text(config.data.get("domain")),
        created=_created(run_id),
        out_dir=str(folder),
        device=str(args.get("backend", "")),
        model=model,
        args=args,
        parameters=whole(config.data.get("totalParams")) or whole(alpha_parameters(model)),
        planned_steps=planned,
        interval=1,
        finished=bool(lines) and planned is not None and lines[-1].step() >= planned,
        steps=tuple(_step(line) for line in lines),
        evaluations=tuple(
            Evaluation(x.step(), x.number_at("loss"), x.required("valLoss"))
            for x in lines
            if x.data.get("valLoss") is not None
        ),
        checkpoints=tuple(sorted(int(m[1]) for m in saved if m)),
        infrastructure=_infrastructure(args, lines),
        data=_data(config.data, args, model),
        warnings=tuple(warnings),
    )


def _created(run_id: str) -> str | None:
    match = _RUN_ID.search(run_id)
    if match is None:
        return None
    try:
        return datetime.strptime(match[0], "%Y%m%d%H%M%S").replace(tzinfo=UTC).isoformat()
    except ValueError:
        return None


def _step(line: Line) -> LogStep:
    phases = {}
    for phase, keys in _PHASES.items():
        found = [line.number_at(key) for key in keys if line.data.get(key) is not None]
        if found:
            phases[phase] = sum(ms for ms in found if ms is not None)
    return LogStep(
        step=line.step(),
        loss=line.number_at("loss"),
        lr=line.number_at("lr"),
        grad_norm=line.number_at("gradNorm"),
        tokens_per_second=line.number_at("tokens_per_sec"),
        step_ms=line.number_at("ms_per_iter"),
        phases=phases,
    )


def _infrastructure(args: Mapping[str, Any], lines: Sequence[Line]) -> dict[str, str]:
    rows = {"Backend": str(args["backend"])} if args.get("backend") else {}
    for label, (key, unit) in _GPU.items():
        values = [x.required(key) for x in lines if x.data.get(key) is not None]
        if values:
            low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
            rows[label] = (low if low == high else f"{low}-{high}") + unit
    return rows


def _data(
    config: Mapping[str, Any], args: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, str]:
    path = config.get("dataPath") or args.get("dataPath")
    rows = {"File": f"`{path}`"} if path else {}
    if args.get("tokenizer"):
        rows["Tokenizer"] = str(args["tokenizer"])
    return rows | counted({"Vocabulary": model.get("vocabSize")})
