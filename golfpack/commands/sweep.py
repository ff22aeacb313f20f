"""The command `golfpack sweep`. No torch until it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import (
    CORES,
    Calib,
    CalibTokens,
    Checkpoint,
    Code,
    Json,
    KlTokens,
    Limit,
    NoCache,
    Quiet,
    RecipeName,
    Seed,
    Set,
    Strict,
    Threads,
    Tokenizer,
    Window,
)

EXAMPLES = (
    "Examples: golfpack sweep ckpt.pt --budgets 8MB,12MB,16MB --calib train.bin | "
    "golfpack sweep ckpt.pt --budgets 2.5bpw,3bpw,4bpw --calib train.bin --eval --tokens val.bin "
    "--tokenizer bpe.model --png frontier.png | golfpack sweep ckpt.pt --predict --json"
)


def sweep(
    checkpoint: Checkpoint,
    budgets: Annotated[
        str | None,
        typer.Option(help="Budgets as of build, with commas. Default: 2 to 6 bits per weight."),
    ] = None,
    recipe: RecipeName = None,
    evaluate: Annotated[
        bool, typer.Option("--eval", help="Score each artifact, too: --tokens, --tokenizer.")
    ] = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="Build nothing: bytes and KL as plan expects them.")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="Draw the frontier into this file (needs matplotlib).")
    ] = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokens: Annotated[
        str | None, typer.Option(help="Token shard, glob of shards, or text to evaluate on.")
    ] = None,
    tokenizer: Tokenizer = None,
    limit: Limit = 65537,
    window: Window = None,
    kl_tokens: KlTokens = 8192,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for artifacts and finished rows. Default: NAME.sweep."),
    ] = None,
    code: Code = None,
    strict: Strict = False,
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build one recipe at several budgets, and say what more bytes would buy; resumable."""
    from golfpack.base.documents import to_json
    from golfpack.build.prepare import DEFAULT_RECIPE
    from golfpack.commands.render import console as render
    from golfpack.commands.render import sweep as render_sweep
    from golfpack.compare.rows import require_any
    from golfpack.compare.sweep import SweepOptions
    from golfpack.compare.sweep import sweep as run

    asked = tuple(b.strip() for b in (budgets or "").split(",") if b.strip())
    options = SweepOptions(
        checkpoint, asked, recipe or DEFAULT_RECIPE, evaluate, predict, png, tokens, tokenizer,
        limit, window, kl_tokens, out, tuple(settings or ()), calib, calib_tokens,
        tuple(code or ()), seed, threads, strict, not no_cache, sys.argv[1:],
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        report = run(options, notify)
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render_sweep.show_sweep(report)
    require_any(report.rows)
