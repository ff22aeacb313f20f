"""`golfpack compare`: its options; what it prints is in `render/comparison.py`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands import complete
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
    Seed,
    Set,
    Strict,
    Threads,
    Window,
)
from golfpack.commands.render.console import Reporter, show_assumed, show_json

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
    tokens: Annotated[
        str, typer.Option(help="Token shard, glob of shards, or text to evaluate on.")
    ],
    tokenizer: Annotated[Path, typer.Option(help="SentencePiece model of the tokens.")],
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    limit: Limit = 65537,
    window: Window = None,
    kl_tokens: KlTokens = 8192,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for artifacts and finished rows. Default: NAME.compare."),
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
    """Build recipes at budgets and evaluate them: one table, resumable, a row at a time."""
    from golfpack.commands.render.comparison import CompareTable, show_comparison
    from golfpack.compare.compare import compare as run
    from golfpack.compare.rows import CompareOptions, require_any

    options = CompareOptions(
        checkpoint=checkpoint, recipes=tuple(r.strip() for r in recipes.split(",")),
        budgets=tuple(budget), tokens=tokens, tokenizer=tokenizer, limit=limit, window=window,
        kl_tokens=kl_tokens, out=out, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, code=tuple(code or ()), seed=seed, threads=threads,
        strict=strict, cache=not no_cache, argv=tuple(sys.argv[1:]),
    )  # fmt: skip
    with Reporter(quiet) as notify:
        table = None if json else CompareTable(options.recipes, options.budgets, notify)
        report = run(options, notify, table)
    show_assumed(report.assumed)
    if json:
        show_json(report)
    else:
        show_comparison(report)
    require_any(report.rows)
