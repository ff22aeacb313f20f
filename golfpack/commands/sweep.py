"""`golfpack sweep`: `compare` of one recipe, and what more bytes would buy."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS, KL_TOKENS
from golfpack.commands.options import (
    CORES,
    Calib,
    CalibTokens,
    Checkpoint,
    Code,
    EvalTokens,
    Json,
    KlTokens,
    Limit,
    NoCache,
    Quiet,
    RecipeName,
    RowsFolder,
    Seed,
    Set,
    Strict,
    Threads,
    Tokenizer,
    Window,
)
from golfpack.errors import UsageError

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
    calib_tokens: CalibTokens = CALIB_TOKENS,
    tokens: EvalTokens = None,
    tokenizer: Tokenizer = None,
    limit: Limit = EVAL_TOKENS,
    window: Window = None,
    kl_tokens: KlTokens = KL_TOKENS,
    out: RowsFolder = None,
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
    from golfpack.build.prepare import DEFAULT_RECIPE
    from golfpack.commands.render.comparison import run_comparison
    from golfpack.compare.rows import CompareOptions

    if evaluate and tokens is None:
        raise UsageError("an evaluation needs --tokens and --tokenizer", "add both, or drop --eval")
    options = CompareOptions(
        checkpoint=checkpoint, command="sweep", recipes=(recipe or DEFAULT_RECIPE,),
        budgets=tuple(b.strip() for b in (budgets or "").split(",") if b.strip()),
        tokens=tokens, tokenizer=tokenizer, limit=limit, window=window, kl_tokens=kl_tokens,
        predict=predict, png=png, out=out, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, code=tuple(code or ()), seed=seed, threads=threads,
        strict=strict, cache=not no_cache, argv=tuple(sys.argv[1:]),
    )  # fmt: skip
    run_comparison(options, json, quiet)
