"""The commands that evaluate: parse, call the api, render. No torch until a command runs."""

import os
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
    Model,
    ModelArgs,
    Quiet,
    Set,
    Threads,
    compile_mode,
)

EVAL_EXAMPLES = (
    "Examples: golfpack eval ckpt.golf --tokens val.bin --tokenizer bpe.model | "
    "golfpack eval ckpt.golf --float ckpt.pt --tokens 'val_*.bin' --tokenizer t.model --mode sliding | "
    "golfpack eval ckpt.golf --tokens val.bin --tokenizer bpe.model --ttt sgd --set ttt.lr=0.002 | "
    "torchrun --nproc-per-node 8 -m golfpack eval ckpt.golf --device cuda ..."
)
STATS_EXAMPLES = (
    "Examples: golfpack stats seed1.json seed2.json seed3.json --baseline 1.0810 | "
    "golfpack stats a.json b.json c.json --baseline record.json"
)


def evaluate(
    path: Annotated[Path, typer.Argument(help="Checkpoint or .golf artifact.")],
    tokens: Annotated[str, typer.Option(help="Token shard, glob of shards, or text.")],
    tokenizer: Annotated[Path, typer.Option(help="SentencePiece model of the tokens.")],
    mode: Annotated[
        str,
        typer.Option(help="How windows are laid: plain or sliding.", autocompletion=complete.mode),
    ] = "plain",
    window: Annotated[
        int | None,
        typer.Option("--window", min=1, help="Tokens per window. Default: the trained length."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Targets each later sliding window scores. Default: 64."),
    ] = None,
    ttt: Annotated[
        str,
        typer.Option(
            help="Score-first test-time training: none, sgd, lora, phased or a .toml file.",
            autocompletion=complete.ttt,
        ),
    ] = "none",
    limit: Annotated[
        int | None, typer.Option(min=2, help="Tokens to read; targets are one fewer.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for the quantization gap.")
    ] = None,
    byte_counts: Annotated[
        str | None, typer.Option(help="Glob of _bytes_ shards that count the bytes of each token.")
    ] = None,
    source_text: Annotated[
        Path | None,
        typer.Option(help="The tokens' raw text: count documents the tokenizer changes."),
    ] = None,
    device: Device = "auto",
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per forward pass. Default: what suits the device."),
    ] = None,
    compiled: Compile = False,
    mode_of_compile: CompileMode = None,
    legality: Annotated[bool, typer.Option(help="Check that the run is legal.")] = True,
    per_document: Annotated[
        bool, typer.Option("--per-document", help="Loss of each document, in the JSON.")
    ] = False,
    per_position: Annotated[
        bool, typer.Option("--per-position", help="Loss by context length, in the JSON.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Turn warnings into errors.")] = False,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model in bits per byte, every target once, with an audit of bytes and of legality."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        evaluate as render_eval,
    )
    from golfpack.eval.evaluate import evaluate as run
    from golfpack.eval.inputs import EvalOptions
    from golfpack.models.choose import choose_family

    first = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks for all
    options = EvalOptions(
        path, tokens, tokenizer, mode, window, stride, ttt, limit, tuple(settings or ()), baseline,
        byte_counts, source_text, threads, device, batch_tokens,
        compile_mode(compiled, mode_of_compile), legality, per_document,
        per_position, strict, sys.argv[1:], choose_family(model, model_args or ()),
    )  # fmt: skip
    with render.Reporter(quiet or not first) as notify:
        report = run(options, notify)
    if not first:
        return
    render.show_assumed(report.assumed)
    render.warn(report.warnings)
    if json:
        render.data(to_json(report))
    else:
        render_eval.show_eval(report)


def stats(
    reports: Annotated[list[Path], typer.Argument(help="Reports of golfpack eval --json.")],
    baseline: Annotated[
        str, typer.Option(help="A report, bits per byte (1.0810), or a loss (2.94nats).")
    ],
    json: Json = False,
) -> None:
    """Test whether runs of several seeds beat a baseline, by the challenge's rule."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        evaluate as render_eval,
    )
    from golfpack.eval.stats import significance

    report = significance(reports, baseline)
    if json:
        render.data(to_json(report))
    else:
        render_eval.show_stats(report)
