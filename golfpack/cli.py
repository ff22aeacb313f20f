"""The command line: parse, call the api, render. No logic here, and no torch until a command runs."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from golfpack import __version__
from golfpack.errors import ExitCode, GolfpackError

app = typer.Typer(
    name="golfpack",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compile a float language model into the smallest artifact that keeps its quality, under an "
    "exact byte budget, and evaluate it in bits per byte.",
)

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option, such as model.softcap=15."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Threads = Annotated[
    int,
    typer.Option(min=1, help="Threads; the result does not depend on it.", show_default="cores"),
]
CORES = os.cpu_count() or 1


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


Checkpoint = Annotated[
    Path, typer.Argument(help="Checkpoint: .pt, .safetensors, .int8.ptz, ALPH or llama2.c .bin.")
]
RecipeName = Annotated[
    str | None, typer.Option(help="Recipe name or .toml file.", show_default="rd")
]
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
Model = Annotated[
    str | None,
    typer.Option(
        metavar="FAMILY|FILE.py:CLASS", help="Read the checkpoint as this. FILE.py is run."
    ),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE|JSON", help="Keyword arguments of CLASS."),
]
DataFree = Annotated[
    bool, typer.Option("--data-free", help="No calibration: relative errors only, of any tensors.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
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
    recipe: RecipeName = None,
    plan: Annotated[
        Path | None, typer.Option(help="Replay a plan file: its passes, schemes and budget.")
    ] = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
    code: Code = None,
    data_free: DataFree = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="No budget: every float exactly as it is.")
    ] = False,
    model: Model = None,
    model_args: ModelArgs = None,
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
    from golfpack.api.planfile import read_plan
    from golfpack.api.prepare import BuildOptions
    from golfpack.models.choice import chosen_model
    from golfpack.report.reports import to_json

    options = BuildOptions(
        checkpoint, budget, output, recipe, tuple(settings or ()), calib, calib_tokens, data_free,
        tokenizer, tuple(code or ()), seed, threads, strict, not no_cache, dry_run, target_kl,
        target_bpb, recalibrate, None if plan is None else read_plan(plan), sys.argv[1:], lossless,
    )  # fmt: skip
    with chosen_model(model, model_args or ()), render.Reporter(quiet) as notify:
        report = run(options, notify)
    render.show_notes(report.notes)
    render.show_assumed(report.assumed)
    render.warn(report.warnings)
    if json:
        render.data(to_json(report))
    else:
        render.show_build(report)


@app.command(
    epilog="Examples: golfpack plan ckpt.pt --calib train.bin | golfpack plan ckpt.pt --budget 8MB "
    "--budget 16MB --calib train.bin --tokenizer bpe.model | golfpack plan ckpt.pt --budget 16MB "
    "--recipe mixed-int5-int6 --calib train.bin -o plan.json"
)
def plan(
    checkpoint: Checkpoint,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="A budget; several are one table. Default: a range, or the recipe as is."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan, for build --plan.")
    ] = None,
    recipe: RecipeName = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
    code: Code = None,
    data_free: DataFree = False,
    model: Model = None,
    model_args: ModelArgs = None,
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict size, KL and loss for budgets from calibration alone, and every tensor's scheme."""
    from golfpack import render, render_tables
    from golfpack.api.plan import plan as run
    from golfpack.api.prepare import BuildOptions
    from golfpack.models.choice import chosen_model
    from golfpack.report.reports import to_json

    options = BuildOptions(
        checkpoint, output=output, recipe=recipe, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, data_free=data_free, tokenizer=tokenizer, code=tuple(code or ()),
        seed=seed, threads=threads, cache=not no_cache,
    )  # fmt: skip
    with chosen_model(model, model_args or ()), render.Reporter(quiet) as notify:
        report = run(options, budget or [], notify)
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render_tables.show_plan(report)


@app.command(
    "eval",
    epilog="Examples: golfpack eval ckpt.golf --tokens val.bin --tokenizer bpe.model | "
    "golfpack eval ckpt.golf --float ckpt.pt --tokens 'val_*.bin' --tokenizer bpe.model --limit 65537",
)
def evaluate(
    path: Annotated[Path, typer.Argument(help="Checkpoint or .golf artifact.")],
    tokens: Annotated[str, typer.Option(help="Token shard, or a glob of shards.")],
    tokenizer: Annotated[Path, typer.Option(help="SentencePiece model of the tokens.")],
    window: Annotated[
        int | None,
        typer.Option("--window", min=1, help="Targets per window. Default: the trained length."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Tokens to read; targets are one fewer.")
    ] = None,
    mode: Annotated[str, typer.Option(help="How windows are laid: plain.")] = "plain",
    baseline: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for the quantisation gap.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda (bf16 autocast).")] = "cpu",
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model in bits per byte, every target once, with an audit of the byte count."""
    from golfpack import render
    from golfpack.api.evaluate import evaluate as run
    from golfpack.models.choice import chosen_model
    from golfpack.report.reports import to_json

    with chosen_model(model, model_args or ()), render.Reporter(quiet) as notify:
        report = run(
            path, tokens, tokenizer, window=window, limit=limit, mode=mode,
            settings=tuple(settings or ()), baseline=baseline, threads=threads,
            device=device, argv=sys.argv[1:], notify=notify,
        )  # fmt: skip
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render.show_eval(report)


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
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Show what a file holds, tensor by tensor."""
    from golfpack import render
    from golfpack.api.inspect import inspect as run
    from golfpack.models.choice import chosen_model
    from golfpack.report.reports import to_json

    with chosen_model(model, model_args or ()):
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
    force: Force = False,
) -> None:
    """Write an artifact's weights as float32 safetensors, with the model's config beside it."""
    from golfpack import render
    from golfpack.api.inspect import unpack as run

    output = output or Path(f"{path.stem}.unpacked.safetensors")
    render.note(f"wrote {output}, {run(path, output, force=force):,} bytes")


@app.command(
    "import",
    epilog="Examples: golfpack import model.safetensors -o ckpt.safetensors | golfpack import best.pt | "
    "golfpack import net.pt --model net.py:Net --model-args dim=64",
)
def import_(
    checkpoint: Checkpoint,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .safetensors to write. Default: NAME.imported.safetensors."
        ),
    ] = None,
    model: Model = None,
    model_args: ModelArgs = None,
    force: Force = False,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Convert any checkpoint to safetensors with its config beside it, every tied tensor once."""
    from golfpack import render
    from golfpack.api.importing import import_checkpoint
    from golfpack.models.choice import chosen_model
    from golfpack.report.reports import to_json

    output = output or Path(f"{checkpoint.stem}.imported.safetensors")
    with chosen_model(model, model_args or ()):
        report = import_checkpoint(checkpoint, output, tuple(settings or ()), force=force)
    if json:
        render.data(to_json(report))
    else:
        render.show_import(report)


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


# Commands in files of their own register themselves; they use the option types above.
import golfpack.cli_compare  # noqa: E402, F401


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
