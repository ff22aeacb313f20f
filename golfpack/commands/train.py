"""The commands that train. No torch until a command runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.options import (
    CORES,
    Compile,
    CompileMode,
    Device,
    Json,
    Quiet,
    Seed,
    Set,
    Threads,
    compile_mode,
)

TRAIN_EXAMPLES = (
    "Examples: golfpack train --tokens 'shards/*_train_*.bin' --tokenizer bpe.model --out run "
    "--minutes 10 | golfpack train --text book.txt --train-vocab 1024 --out run --steps 500"
)
DEMO_EXAMPLES = "Example: golfpack demo --out demo"


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    tokens: Annotated[str | None, typer.Option(help="Token shard, or a glob of shards.")] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help=".txt or .jsonl file.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="SentencePiece model.")] = None,
    train_vocab: Annotated[
        int | None, typer.Option(min=260, help="Train a tokenizer of that many pieces on --text.")
    ] = None,
    val_tokens: Annotated[str | None, typer.Option(help="Shard for validation losses.")] = None,
    family: Annotated[
        str, typer.Option(help="Model family.", autocompletion=complete.family)
    ] = "golf",
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
    """Train a float checkpoint of the golf family."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import console as render
    from golfpack.train.report import TrainReport
    from golfpack.train.train import TrainOptions
    from golfpack.train.train import train as run

    options = TrainOptions(
        out, family, tokens, tuple(text or ()), val_tokens, tokenizer, train_vocab, steps, minutes,
        seed, threads, device, resume, tuple(settings or ()),
        compile_mode(compiled, mode_of_compile), sys.argv[1:],
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        result = run(options, notify)
    report = TrainReport(
        result.steps, result.seconds, result.final_loss, result.val_loss, str(result.checkpoint),
        sys.argv[1:],
    )  # fmt: skip
    if json:
        render.data(to_json(report))
    else:
        render.show_train(report)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small model on text every Python carries, build it twice, and compare."""
    from golfpack.base.documents import to_json
    from golfpack.build.demo import demo as run
    from golfpack.commands.render import console as render

    with render.Reporter(quiet) as notify:
        rows = run(out, seed=seed, threads=threads, notify=notify)
    if json:
        render.data(to_json(rows))
    else:
        render.show_demo(rows)
