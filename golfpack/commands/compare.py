"""`golfpack compare`: its options; what it prints is in `render/comparison.py`."""

import sys
from typing import Annotated

import typer

from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS, KL_TOKENS
from golfpack.commands import complete
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
    RowsFolder,
    Seed,
    Set,
    Strict,
    Threads,
    Tokenizer,
    Window,
)

EXAMPLES = (
    "Examples: golfpack compare ckpt.pt --recipes rd,sdclip-brotli --budget 16MB --calib "
    "train.bin --tokens val.bin --tokenizer bpe.model | golfpack compare ckpt.pt --budget 4bpw "
    "--budget 3bpw --recipes rd,mine.toml --tokens val.bin --tokenizer bpe.model --out cmp --json"
)


def compare(
    checkpoint: Checkpoint,
    recipes: Annotated[
        str,
        typer.Option(
            help="Recipe names or .toml files, with commas.", autocompletion=complete.recipes
        ),
    ],
    budget: Annotated[
        list[str],
        typer.Option(metavar="SIZE", help="A budget, as of build; several are more rows."),
    ],
    tokens: EvalTokens,
    tokenizer: Tokenizer = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = CALIB_TOKENS,
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
    """Build recipes at budgets and evaluate them: one table, resumable, a row at a time."""
    from golfpack.commands.render.comparison import run_comparison
    from golfpack.compare.rows import CompareOptions

    options = CompareOptions(
        checkpoint=checkpoint, recipes=tuple(r.strip() for r in recipes.split(",")),
        budgets=tuple(budget), tokens=tokens, tokenizer=tokenizer, limit=limit, window=window,
        kl_tokens=kl_tokens, out=out, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, code=tuple(code or ()), seed=seed, threads=threads,
        strict=strict, cache=not no_cache, argv=tuple(sys.argv[1:]),
    )  # fmt: skip
    run_comparison(options, json, quiet)
