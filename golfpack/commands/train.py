"""`golfpack train`: its options, and what it prints."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.build import show_build
from golfpack.commands.options import (
    CORES,
    Compile,
    CompileMode,
    Device,
    Json,
    ModelArgs,
    Quiet,
    Set,
    Threads,
    compile_mode,
)
from golfpack.commands.render.console import (
    Reporter,
    note,
    out,
    show_json,
    show_notes,
    warn,
)
from golfpack.commands.render.live import Dashboard
from golfpack.commands.render.tables import plain_table
from golfpack.errors import UsageError

if TYPE_CHECKING:
    from golfpack.inspect.train_plan import TrainPlan
    from golfpack.train.choose import TrainOptions
    from golfpack.train.report import TrainReport
    from golfpack.train.trainer import TrainResult

EXAMPLES = (
    "Examples: golfpack train --tokens 'shards/*_train_*.bin' --tokenizer bpe.model --out run "
    "--minutes 10 | golfpack train --text book.txt --train-vocab 1024 --out run --steps 500 | "
    "golfpack train --preset tiny-bottleneck-mini --text book.txt --out run | "
    "golfpack train --preset dba-1b --print-plan | golfpack train --text book.txt --train-vocab 1024 "
    "--out run --steps 500 --for 500kB"
)


def train(
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoints and the log.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Preset, or .toml file.", autocompletion=complete.preset),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Token shard, .npy, .tokens, or a glob of them.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help=".txt or .jsonl file.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece model, tokenizer.json or ALPH tokenizer.")
    ] = None,
    train_vocab: Annotated[
        int | None, typer.Option(min=2, help="Train a tokenizer of that many pieces on --text.")
    ] = None,
    tokenizer_kind: Annotated[
        str,
        typer.Option(
            help="Of --train-vocab: sentencepiece, or alph (character BPE).",
            autocompletion=complete.tokenizer_kind,
        ),
    ] = "sentencepiece",
    val_tokens: Annotated[
        str | None, typer.Option(help="Held-out tokens or text, for validation losses.")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Hold out that share of the data's end instead.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Model family.", autocompletion=complete.trained_family, show_default="golf"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:CLASS", help="A torch module of your own. FILE.py is run."),
    ] = None,
    model_args: ModelArgs = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="LAYERSxWIDTH, or with a table of token pairs (and triples): 4x128+16384x64(x3)."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in wall-clock minutes.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="SIZE", help="Train for the artifact of 16MB or 2.5bpw, and build it."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT stopped.")] = False,
    print_plan: Annotated[
        bool, typer.Option("--print-plan", help="Say what the run would be, and read no data.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show the run in panels, at a terminal.")
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write OUT/tensorboard (needs the extra tensorboard)."),
    ] = False,
    device: Device = "auto",
    compiled: Compile = False,
    mode_of_compile: CompileMode = None,
    settings: Set = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="0")
    ] = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a float checkpoint of any model family; under torchrun, with all its processes."""
    from golfpack.build.trained import build_trained, train_report
    from golfpack.train.choose import TrainOptions
    from golfpack.train.sources import DataOptions

    if model is not None and family is not None:
        raise UsageError("--model and --family both say what is trained", "give one of them")
    options = TrainOptions(
        out, preset=preset, family=model or family, model_args=tuple(model_args or ()),
        shape=shape,
        data=DataOptions(
            tokens=tokens, text=tuple(text or ()), val_tokens=val_tokens, val_fraction=val_fraction,
            tokenizer=tokenizer, train_vocab=train_vocab, tokenizer_kind=tokenizer_kind,
        ),
        steps=steps, minutes=minutes, seed=seed,
        threads=threads, device=device, resume=resume, budget=budget, settings=tuple(settings or ()),
        compile_mode=compile_mode(compiled, mode_of_compile), argv=sys.argv[1:],
        tensorboard=tensorboard,
    )  # fmt: skip
    if print_plan:
        _plan(options, json)
        return
    if live and quiet:
        raise UsageError("--live shows the run, --quiet does not", "give one of them")
    result = _watched(options) if live and _at_terminal() else _reported(options, quiet)
    built = None
    if budget is not None:
        with Reporter(quiet) as notify:
            built = build_trained(result, options, notify)
    report = train_report(result, built, sys.argv[1:])
    if not result.writes:
        return
    warn(result.warnings)
    if json:
        show_json(report)
    else:
        show_train(report)
        if built is not None:
            show_notes(built.notes)
            warn(built.warnings)
            show_build(built)


def _at_terminal() -> bool:
    """Whether this is the process that talks, and somebody looks at what it says."""
    first = os.environ.get("RANK", "0") == "0"
    looked_at = out.is_terminal and sys.stderr.isatty()
    if first and not looked_at:
        note("--live needs a terminal; this is plain progress")
    return first and looked_at


def _watched(options: "TrainOptions") -> "TrainResult":
    from golfpack.train.train import train as run

    with Dashboard() as dashboard:
        return run(options, dashboard, [dashboard.listen])


def _reported(options: "TrainOptions", quiet: bool) -> "TrainResult":
    from golfpack.train.train import train as run

    with Reporter(quiet) as notify:
        return run(options, notify)


def _plan(options: "TrainOptions", json: bool) -> None:
    from golfpack.inspect.train_plan import train_plan

    plan = train_plan(options)
    if json:
        show_json(plan)
    else:
        show_plan(plan)


def show_train(report: "TrainReport") -> None:
    """Where the checkpoint is and how good it got."""
    val = "" if report.val_loss is None else f", validation loss {report.val_loss:.4f}"
    out.print(
        f"{report.steps:,} steps in {report.seconds:.0f} s, loss {report.final_loss:.4f}{val} nats "
        f"per token\nwrote {report.checkpoint}"
    )


def show_plan(plan: "TrainPlan") -> None:
    """The model's size, the run's, and its rates."""
    from golfpack.kv.layout import LONG_CONTEXT, human_bytes

    config = plan.train
    budget = (
        f"{config['minutes']:g} minutes" if plan.tokens is None else f"{config['steps']:,} steps"
    )
    keys = f"{plan.tensors:,} tensors"
    if plan.aliases:
        keys += f" ({plan.keys:,} keys in the system's own files, {plan.aliases:,} of them aliases)"
    rows = {
        "model": f"{plan.family}, {plan.parameters:,} parameters, {keys}",
        "weights": f"{plan.weight_bytes:,} B, {config['param_dtype']}",
        "optimizer": f"{config['optimizer']}, {plan.optimizer_bytes:,} B of state, "
        f"{plan.decayed:,} parameters decay",
        "step": f"{plan.tokens_per_step:,} tokens: {plan.sequences:,} sequences in "
        f"{config['accumulate']} parts",
        "run": budget + ("" if plan.tokens is None else f", {plan.tokens:,} tokens"),
    }
    if plan.kv_bytes is not None and plan.kv_long_bytes is not None:
        rows["KV cache"] = (
            f"{human_bytes(plan.kv_bytes)} at {config['seq_len']:,} tokens, "
            f"{human_bytes(plan.kv_long_bytes)} at {LONG_CONTEXT:,} (fp16)"
        )
    table = plain_table()
    for name, value in rows.items():
        table.add_row(name, value)
    for step in plan.steps:
        rate = "rate by the clock" if step.lr is None else f"rate {step.lr:g}"
        table.add_row(f"step {step.step:,}", f"{rate}, {step.seq_len:,} tokens a sequence")
    out.print(table)
