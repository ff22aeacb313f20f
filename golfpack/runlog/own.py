"""Runs of `golfpack train`: `train.jsonl`, as `docs/run_reports.md` lists its records.

Logs of before there were typed records hold steps only; they are read, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golfpack.runlog.jsonl import Line, counted, text, texts, whole
from golfpack.runlog.log import PHASES, Evaluation, LogError, LogStep, RunLog, Sample
from golfpack.runlog.times import seconds_between

LOG = "train.jsonl"


def wrote(lines: Sequence[Line]) -> bool:
    """Whether a `train.jsonl` is one of ours."""
    first = lines[0] if lines else None
    if first is None or first.kind == "meta":
        return first is not None and "golfpack_log" in first.data
    return {"step", "loss", "tokens"} <= first.data.keys()


def read(folder: Path, lines: Sequence[Line], warnings: Sequence[str]) -> RunLog:
    """The run. Raises CorruptError, naming the line, where a record cannot be read."""
    meta = lines[0] if lines[0].kind == "meta" else Line(lines[0].path, 0, {})
    args, data = meta.object_at("config"), meta.object_at("data")
    steps = [x for x in lines if x.kind in ("step", "")]
    of_kind = {k: [x for x in lines if x.kind == k] for k in ("sample", "checkpoint", "resume")}
    times = [str(x.data["time"]) for x in lines if "time" in x.data]
    created, updated = (times[0], times[-1]) if times else (None, None)
    took = [s for x in steps if (s := x.number_at("seconds")) is not None]
    return RunLog(
        system="golfpack",
        log=LOG,
        run_id=folder.resolve().name,
        created=created,
        updated=updated,
        seconds=max(took, default=seconds_between(created, updated)),
        out_dir=str(meta.data.get("out_dir") or folder),
        device=str(args.get("device", "")),
        command=("golfpack", *texts(meta.data.get("argv"))),
        family=text(meta.data.get("family")),
        model=meta.object_at("model"),
        args=args,
        parameters=whole(meta.data.get("parameters")),
        planned_steps=whole(args.get("steps")),
        interval=_interval(args, of_kind["resume"]),
        finished=any(x.kind == "end" for x in lines),
        steps=tuple(_step(line) for line in steps),
        evaluations=tuple(
            Evaluation(x.step(), x.number_at("loss"), x.required("val_loss"))
            for x in steps
            if "val_loss" in x.data
        ),
        samples=tuple(_sample(line) for line in of_kind["sample"]),
        checkpoints=tuple(x.step() for x in of_kind["checkpoint"]),
        resumed=tuple(x.step() for x in of_kind["resume"]),
        errors=tuple(_errors(lines)),
        infrastructure=_infrastructure(meta, args),
        data=_data(data, args, meta.object_at("model")),
        warnings=tuple(warnings),
    )


def _errors(lines: Sequence[Line]) -> list[LogError]:
    """What ended the run, and analyses that failed."""
    found = []
    for x in lines:
        if x.kind == "error":
            found.append(LogError(x.step(), "training", str(x.data.get("message", ""))))
        elif x.data.get("error"):
            found.append(LogError(x.step(), x.kind, str(x.data["error"])))
    return found


def _interval(args: dict[str, Any], resumes: Sequence[Line]) -> int | None:
    """Steps between records; None where resumptions changed it."""
    found = {whole(x.get("log_every")) for x in (args, *(r.data for r in resumes))}
    return found.pop() if len(found) == 1 else None


def _step(line: Line) -> LogStep:
    timing = line.object_at("timing_ms")
    named = Line(line.path, line.number, timing)
    found = {phase: named.number_at(phase) for phase in PHASES}
    return LogStep(
        step=line.step(),
        loss=line.number_at("loss"),
        lr=line.number_at("lr"),
        grad_norm=line.number_at("grad_norm"),
        tokens_per_second=line.number_at("tokens_per_second"),
        step_ms=named.number_at("step"),
        phases={phase: ms for phase, ms in found.items() if ms is not None},
    )


def _sample(line: Line) -> Sample:
    options = line.object_at("options")
    return Sample(
        step=line.step(),
        prompt=str(line.data.get("prompt", "")),
        text=str(line.data.get("text", "")),
        settings=", ".join(f"{name}={value}" for name, value in options.items()),
    )


def _infrastructure(meta: Line, args: dict[str, Any]) -> dict[str, str]:
    rows = {"Platform": str(meta.data["platform"])} if "platform" in meta.data else {}
    if args.get("device"):
        rows["Device"] = str(meta.data.get("device_name") or args["device"])
    if args.get("threads"):
        rows["Threads"] = str(args["threads"])
    return rows | {name: str(v) for name, v in meta.object_at("versions").items()}


def _data(data: dict[str, Any], args: dict[str, Any], model: dict[str, Any]) -> dict[str, str]:
    rows = {}
    if sources := texts(data.get("sources")):
        rows["Files" if len(sources) > 1 else "File"] = ", ".join(f"`{s}`" for s in sources)
    if data.get("tokenizer"):
        rows["Tokenizer"] = f"`{data['tokenizer']}`"
    if data.get("sha256"):
        rows["Training tokens' sha256"] = f"`{data['sha256']}`"
    return rows | counted(
        {
            "Training tokens": data.get("tokens"),
            "Validation tokens": data.get("val_tokens"),
            "Vocabulary": model.get("vocab_size"),
            "Tokens per step": args.get("batch_tokens"),
        }
    )
