"""Logs of TheApeMachine/decoupled-bottleneck-attention: one `train.jsonl` of typed events.

Events: meta {env, argv, args, config}, mem {n_tokens_*}, train, eval, analysis; all with `step` and
`wall_time`. Gradient norms before clipping are `grad_clip_norm`, or `grad_clip_total_norm` in older
versions. `grad_norm_total` is measured after clipping and is not read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golfpack.runlog.jsonl import Line, counted, text, texts, whole
from golfpack.runlog.log import Evaluation, LogError, LogStep, RunLog
from golfpack.runlog.shapes import bottleneck_parameters
from golfpack.runlog.times import seconds_between

LOG = "train.jsonl"
FILES = "`train.jsonl`, `analysis.h5` (if enabled), `analysis.png`, `best.pt`, `last.pt`"
_PHASES = {"forward": "fwd_ms", "backward": "bwd_ms", "optimiser": "opt_ms", "data": "data_ms"}
_MEMORY = ("mps_mem_alloc_bytes", "cuda_mem_alloc_bytes", "cpu_rss_bytes")


def wrote(lines: Sequence[Line]) -> bool:
    """Whether a `train.jsonl` is of this system."""
    return any(line.kind == "meta" and "env" in line.data for line in lines[:1])


def read(folder: Path, lines: Sequence[Line], warnings: Sequence[str]) -> RunLog:
    """The run. Raises CorruptError, naming the line, where an event cannot be read."""
    meta = lines[0]
    env, args, model = (meta.object_at(key) for key in ("env", "args", "config"))
    by_kind = {kind: [x for x in lines if x.kind == kind] for kind in ("train", "eval", "mem")}
    times = [str(x.data["wall_time"]) for x in lines if "wall_time" in x.data]
    created, updated = text(env.get("time")), (times or [None])[-1]
    planned = whole(args.get("steps"))
    return RunLog(
        system="bottleneck",
        log=LOG,
        run_id=folder.resolve().name,
        created=created,
        updated=updated,
        seconds=seconds_between(created, updated),
        out_dir=str(args.get("out_dir") or folder),
        device=str(env.get("device", "")),
        command=texts(meta.data.get("argv")),
        size=text(args.get("size")),
        exp=text(args.get("exp")),
        model=model,
        args=args,
        parameters=whole(bottleneck_parameters(model)),
        planned_steps=planned,
        interval=whole(args.get("log_every")),
        finished=any(
            planned is not None and x.step() >= planned for x in by_kind["train"] + by_kind["eval"]
        ),
        steps=tuple(_step(line) for line in by_kind["train"]),
        evaluations=tuple(_evaluation(line) for line in by_kind["eval"]),
        checkpoints=_checkpoints(folder),
        errors=tuple(_errors(lines)),
        infrastructure=_infrastructure(env, by_kind["train"]),
        data=_data(args, by_kind["mem"]),
        files_line=FILES,
        warnings=tuple(warnings),
    )


def _step(line: Line) -> LogStep:
    found = {phase: line.number_at(key) for phase, key in _PHASES.items()}
    return LogStep(
        step=line.step(),
        loss=line.number_at("loss"),
        lr=line.number_at("lr"),
        grad_norm=line.first_number("grad_clip_norm", "grad_clip_total_norm"),
        tokens_per_second=line.number_at("tok_s"),
        step_ms=line.number_at("step_ms"),
        phases={phase: ms for phase, ms in found.items() if ms is not None},
    )


def _evaluation(line: Line) -> Evaluation:
    return Evaluation(line.step(), line.number_at("train_loss"), line.required("val_loss"))


def _errors(lines: Sequence[Line]) -> list[LogError]:
    return [LogError(x.step(), x.kind, str(x.data["error"])) for x in lines if x.data.get("error")]


def _checkpoints(folder: Path) -> tuple[int, ...]:
    names = (p.stem.removeprefix("step") for p in folder.glob("step*.pt"))
    return tuple(sorted(int(n) for n in names if n.isdigit()))


def _infrastructure(env: dict[str, Any], train: Sequence[Line]) -> dict[str, str]:
    named = {"Platform": "platform", "Device": "device", "Python": "python", "torch": "torch"}
    rows = {label: str(env[key]) for label, key in named.items() if env.get(key)}
    for key in _MEMORY:
        values = [x.number_at(key) or 0.0 for x in train if key in x.data]
        if values:
            label = key.removesuffix("_bytes").replace("_", " ")
            rows[f"Peak {label}"] = f"{max(values):,.0f} bytes"
    return rows


def _data(args: dict[str, Any], mem: Sequence[Line]) -> dict[str, str]:
    rows = {}
    if args.get("data"):
        rows["File"] = f"`{args['data']}`"
    event = mem[0] if mem else None
    form = (event.data if event else args).get("data_format")
    if form:
        rows["Format"] = str(form)
    sizes = event.data if event else {}
    return rows | counted(
        {
            "Tokens": sizes.get("n_tokens_total"),
            "Training tokens": sizes.get("n_tokens_train"),
            "Validation tokens": sizes.get("n_tokens_val"),
            "Vocabulary": sizes.get("vocab_size"),
        }
    )
