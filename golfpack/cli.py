"""The command line: parse, call the api, render. No logic here, and no torch until a command runs."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from golfpack import __version__, cli_eval
from golfpack.cli_options import CORES, Json, Quiet, Seed, Set, Threads
from golfpack.errors import ExitCode, GolfpackError, PeerError

app = typer.Typer(
    name="golfpack",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compile a float language model into the smallest artifact that keeps its quality, under an "
    "exact byte budget, and evaluate it in bits per byte.",
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"golfpack {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


Checkpoint = Annotated[Path, typer.Argument(help=".pt, .safetensors or .int8.ptz checkpoint.")]
RecipeName = Annotated[str, typer.Option(help="Recipe name or .toml file.")]
Calib = Annotated[
    str | None,
    typer.Option(help="Token shard or text to calibrate on. Default: the model writes its own."),
]
CalibTokens = Annotated[int, typer.Option(min=2, help="Calibration tokens.")]
Tokenizer = Annotated[
    Path | None, typer.Option(help="SentencePiece model: for text, and for losses per byte.")
]
Code = Annotated[
    list[Path] | None, typer.Option(help="File that ships too and counts towards the budget.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Calibrate afresh.")]


@app.command(
    epilog="Examples: golfpack build ckpt.pt --budget 16MB | golfpack build ckpt.pt --budget 3.5bpw "
    "--calib train.bin -o small.golf | golfpack build ckpt.pt --target-kl 0.01 --calib train.bin"
)
def build(
    checkpoint: Checkpoint,
    budget: Annotated[
        str | None, typer.Option(help="16MB, 16MiB, 16000000 or 3.5bpw (bits per weight).")
    ] = None,
    target_kl: Annotated[
        float | None, typer.Option(help="No budget: the smallest file within this KL, nats/token.")
    ] = None,
    target_bpb: Annotated[
        float | None, typer.Option(help="The same as a loss in bits per byte; needs --tokenizer.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .golf to write.")
    ] = None,
    recipe: RecipeName = "rd",
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
    code: Code = None,
    data_free: Annotated[bool, typer.Option("--data-free", help="No calibration at all.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write no file.")] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure again behind quantised layers; slower.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Turn warnings into errors.")] = False,
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile a checkpoint into a .golf artifact that is never one byte over the budget."""
    from golfpack import render
    from golfpack.api.build import build as run
    from golfpack.api.prepare import BuildOptions
    from golfpack.report.reports import to_json

    options = BuildOptions(
        checkpoint, budget, output, recipe, tuple(settings or ()), calib, calib_tokens, data_free,
        tokenizer, tuple(code or ()), seed, threads, strict, not no_cache, dry_run, target_kl,
        target_bpb, recalibrate, sys.argv[1:],
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        report = run(options, notify)
    render.show_assumed(report.assumed)
    render.warn(report.warnings)
    if json:
        render.data(to_json(report))
    else:
        render.show_build(report)


@app.command(
    epilog="Examples: golfpack plan ckpt.pt --calib train.bin | golfpack plan ckpt.pt --budget 8MB "
    "--budget 16MB --calib train.bin --tokenizer bpe.model"
)
def plan(
    checkpoint: Checkpoint,
    budget: Annotated[
        list[str] | None, typer.Option(help="A budget; several are one table. Default: a range.")
    ] = None,
    recipe: RecipeName = "rd",
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
    code: Code = None,
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict size, KL and loss for budgets from calibration alone; builds nothing."""
    from golfpack import render
    from golfpack.api.plan import plan as run
    from golfpack.api.prepare import BuildOptions
    from golfpack.report.reports import to_json

    options = BuildOptions(
        checkpoint, recipe=recipe, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, tokenizer=tokenizer, code=tuple(code or ()), seed=seed,
        threads=threads, cache=not no_cache,
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        report = run(options, budget or [], notify)
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render.show_plan(report)


app.command("eval", epilog=cli_eval.EVAL_EXAMPLES)(cli_eval.evaluate)
app.command("stats", epilog=cli_eval.STATS_EXAMPLES)(cli_eval.stats)


@app.command(
    epilog="Examples: golfpack train --tokens 'shards/*_train_*.bin' --tokenizer bpe.model --out run "
    "--minutes 10 | golfpack train --text book.txt --train-vocab 1024 --out run --steps 500"
)
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    tokens: Annotated[str | None, typer.Option(help="Token shard, or a glob of shards.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help=".txt or .jsonl file.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="SentencePiece model.")] = None,
    train_vocab: Annotated[
        int | None, typer.Option(min=260, help="Train a tokenizer of that many pieces on --text.")
    ] = None,
    val_tokens: Annotated[str | None, typer.Option(help="Shard for validation losses.")] = None,
    family: Annotated[str, typer.Option(help="Model family.")] = "golf",
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in wall-clock minutes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT stopped.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a float checkpoint of the golf family."""
    from golfpack import render
    from golfpack.api.train import TrainOptions
    from golfpack.api.train import train as run

    options = TrainOptions(
        out, family, tokens, tuple(text or ()), val_tokens, tokenizer, train_vocab, steps, minutes,
        seed, threads, device, resume, tuple(settings or ()),
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        result = run(options, notify)
    render.show_train(result, json)


@app.command(
    epilog="Examples: golfpack inspect x.golf | golfpack inspect x.golf --float ckpt.pt --json"
)
def inspect(
    path: Annotated[Path, typer.Argument(help=".golf artifact or checkpoint.")],
    against: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for rel_err and SQNR.")
    ] = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Show what a file holds, tensor by tensor."""
    from golfpack import render
    from golfpack.api.inspect import inspect as run
    from golfpack.report.reports import to_json

    report = run(path, against, tuple(settings or ()))
    if json:
        render.data(to_json(report))
    else:
        render.show_inspect(report)


@app.command(epilog="Example: golfpack unpack x.golf -o weights.safetensors")
def unpack(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .safetensors to write. Default: NAME.unpacked.safetensors."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write an artifact's weights as float32 safetensors, with the model's config beside it."""
    from golfpack import render
    from golfpack.api.inspect import unpack as run

    output = output or Path(f"{path.stem}.unpacked.safetensors")
    render.note(f"wrote {output}, {run(path, output, force=force):,} bytes")


@app.command(epilog="Example: golfpack demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small model on text every Python carries, build it twice, and compare."""
    from golfpack import render
    from golfpack.api.demo import demo as run
    from golfpack.report.reports import to_json

    with render.Reporter(quiet) as notify:
        rows = run(out, seed=seed, threads=threads, notify=notify)
    if json:
        render.data(to_json(rows))
    else:
        render.show_demo(rows)


class _Interrupted(GolfpackError):
    exit_code = ExitCode.INTERRUPTED


def _on_interrupt(_signal: int, _frame: object) -> NoReturn:
    raise _Interrupted("interrupted", "no file was left half written")


def main() -> NoReturn:
    """Run a command; errors become one line, a hint and an exit code, never a traceback."""
    debug = bool(os.environ.get("GOLFPACK_DEBUG"))
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        app()
    except PeerError as e:
        sys.exit(e.exit_code)
    except GolfpackError as e:
        _fail(e.message, e.hint, e.exit_code, debug)
    except (Exception, KeyboardInterrupt) as e:
        notes = "; ".join(getattr(e, "__notes__", []))
        _fail(
            f"internal error: {type(e).__name__}: {e}" + (f" ({notes})" if notes else ""),
            "this is a fault of golfpack; GOLFPACK_DEBUG=1 shows where",
            ExitCode.INTERNAL,
            debug,
        )
    sys.exit(ExitCode.OK)


def _fail(message: str, hint: str | None, code: ExitCode, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    sys.exit(code)
