"""`golfpack train`: its options, and what it prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.options import (
    CORES,
    Compile,
    CompileMode,
    Device,
    Json,
    ModelArgs,
    Quiet,
    Seed,
    Set,
    Threads,
    compile_mode,
)
from golfpack.commands.render.console import Reporter, out, show_json

if TYPE_CHECKING:
    from golfpack.train.report import TrainReport

EXAMPLES = (
    "Examples: golfpack train --tokens 'shards/*_train_*.bin' --tokenizer bpe.model --out run "
    "--minutes 10 | golfpack train --text book.txt --train-vocab 1024 --out run --steps 500"
)


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    tokens: Annotated[str | None, typer.Option(help="Token shard, or a glob of shards.")] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help=".txt or .jsonl file.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece model or tokenizer.json.")
    ] = None,
    train_vocab: Annotated[
        int | None, typer.Option(min=260, help="Train a tokenizer of that many pieces on --text.")
    ] = None,
    val_tokens: Annotated[str | None, typer.Option(help="Shard for validation losses.")] = None,
    family: Annotated[
        str, typer.Option(help="Model family.", autocompletion=complete.trained_family)
    ] = "golf",
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:CLASS", help="A torch module of your own. FILE.py is run."),
    ] = None,
    model_args: ModelArgs = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in wall-clock minutes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT stopped.")] = False,
    device: Device = "auto",
    compiled: Compile = False,
    mode_of_compile: CompileMode = None,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a float checkpoint of any model family; under torchrun, with all its processes."""
    from golfpack.train.report import TrainReport
    from golfpack.train.train import TrainOptions
    from golfpack.train.train import train as run

    options = TrainOptions(
        out, family=model or family, model_args=tuple(model_args or ()), tokens=tokens,
        text=tuple(text or ()), val_tokens=val_tokens,
        tokenizer=tokenizer, train_vocab=train_vocab, steps=steps, minutes=minutes, seed=seed,
        threads=threads, device=device, resume=resume, settings=tuple(settings or ()),
        compile_mode=compile_mode(compiled, mode_of_compile), argv=sys.argv[1:],
    )  # fmt: skip
    with Reporter(quiet) as notify:
        result = run(options, notify)
    report = TrainReport(
        result.steps, result.seconds, result.final_loss, result.val_loss, str(result.checkpoint),
        sys.argv[1:],
    )  # fmt: skip
    if json:
        show_json(report)
    else:
        show_train(report)


def show_train(report: "TrainReport") -> None:
    """Where the checkpoint is and how good it got."""
    val = "" if report.val_loss is None else f", validation loss {report.val_loss:.4f}"
    out.print(
        f"{report.steps:,} steps in {report.seconds:.0f} s, loss {report.final_loss:.4f}{val} nats "
        f"per token\nwrote {report.checkpoint}"
    )
