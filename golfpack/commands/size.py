"""`golfpack size`: its options, and what it prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS
from golfpack.commands import complete
from golfpack.commands.options import (
    CORES,
    CalibTokens,
    Code,
    Device,
    Json,
    Limit,
    Quiet,
    RecipeName,
    Set,
    Threads,
    Window,
)
from golfpack.commands.render.console import Reporter, note, number, out, show_json, show_notes
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.size.report import SizeReport, SizeRow, SizeRun

EXAMPLES = (
    "Examples: golfpack size --budget 16MB --tokens 'shards/*_train_*.bin' --val-tokens val.bin "
    "--tokenizer bpe.model --minutes 10 --out ladder | golfpack size --budget 500kB --text book.txt "
    "--train-vocab 1024 --steps 500 --seeds 3 | golfpack size --budget 500kB --tokens train.bin "
    "--tokenizer bpe.model --shapes 3x96,4x128,5x192 --refine auto --json"
)


def size(
    budget: Annotated[str, typer.Option(help="16MB, 16MiB or 16000000, --code included.")],
    tokens: Annotated[
        str | None, typer.Option(help="Token shard, .npy, .tokens, or a glob, to train on.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help=".txt or .jsonl file to train on.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece model or tokenizer.json of the tokens.")
    ] = None,
    train_vocab: Annotated[
        int | None, typer.Option(min=2, help="Train a tokenizer of that many pieces on --text.")
    ] = None,
    val_tokens: Annotated[
        str | None, typer.Option(help="Held-out tokens or text, to score on.")
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Hold out that share of the data's end instead.", show_default="0.05"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Train each shape so many wall-clock minutes.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Train each so many steps instead.", show_default="1000"),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="LAYERSxWIDTH, or with a table of token pairs (and triples): 4x128+16384x64(x3); "
            "with commas. Default: those that --budget gives 6 to 1.25 bits, then some beside the best."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each shape.")] = 1,
    family: Annotated[
        str | None,
        typer.Option(
            help="golf, llama, gpt2 or alph.",
            autocompletion=complete.trained_family,
            show_default="golf",
        ),
    ] = None,
    recipe: RecipeName = None,
    refine: Annotated[
        str,
        typer.Option(metavar="TOKENS|auto", help="As of build: train the codes on so many tokens."),
    ] = "0",
    calib_tokens: CalibTokens = CALIB_TOKENS,
    code: Code = None,
    limit: Limit = EVAL_TOKENS,
    window: Window = None,
    out: Annotated[
        Path, typer.Option(help="Folder for models, artifacts and figures; a rerun goes on there.")
    ] = Path("size"),
    png: Annotated[
        Path | None, typer.Option(help="The picture. Default: size.png in --out.")
    ] = None,
    device: Device = "auto",
    settings: Set = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the size of model that is best in a budget: train, compile and score a ladder; resumable."""
    from golfpack.base.convert import make
    from golfpack.size.options import SizeOptions
    from golfpack.size.size import size as run
    from golfpack.train.sources import DataOptions

    table = {
        "budget": budget,
        "data": DataOptions(
            tokens=tokens, text=tuple(text or ()), val_tokens=val_tokens, val_fraction=val_fraction,
            tokenizer=tokenizer, train_vocab=train_vocab,
        ),
        "shapes": () if shapes is None else tuple(s.strip() for s in shapes.split(",")),
        "steps": steps, "minutes": minutes, "seeds": seeds, "family": family,
        "settings": tuple(settings or ()), "recipe": recipe,
        "refine": int(refine) if refine.isdecimal() else refine, "calib_tokens": calib_tokens,
        "code": tuple(code or ()), "limit": limit, "window": window,
        "out": out, "png": png, "threads": threads, "device": device, "argv": tuple(sys.argv[1:]),
    }  # fmt: skip
    options = make(SizeOptions, table, "size")
    with Reporter(quiet) as notify:

        def tell(done: "SizeRun") -> None:
            if not quiet:
                with notify.paused():
                    note(run_line(done))

        report = run(options, notify, tell)
    show_notes(report.notes)
    if json:
        show_json(report)
    else:
        show_size(report)


def run_line(run: "SizeRun") -> str:
    """What became of one shape and seed, on one line."""
    start = f"{run.shape} seed {run.seed}: float {number(run.float_bpb, '.4f')}"
    if run.refused is not None:
        return f"{start}, refused: {run.refused}"
    notes = f", {len(run.warnings)} warnings" if run.warnings else ""
    reused = ", from an earlier run" if run.reused else ""
    return (
        f"{start}, artifact {number(run.artifact_bpb, '.4f')} of {number(run.artifact_bytes, ',d')} "
        f"bytes{notes}{reused}"
    )


def show_size(report: "SizeReport") -> None:
    """One table, and the answer below it."""
    table = plain_table(
        ["shape", "parameters", "bpw", "float bpb", "added", "artifact bpb", "spread", "tokens/s"],
        left=["shape"],
    )
    for row in report.rows:
        table.add_row(*_cells(row))
    out.print(table)
    budget = f"{report.minutes:g} minutes" if report.minutes else f"{report.steps:,} steps"
    code = f", {report.code_bytes:,} of them for code" if report.code_bytes else ""
    seeds = "one seed" if report.seeds == 1 else f"means over {report.seeds} seeds"
    out.print(
        f"{budget} each, {report.budget_bytes:,} bytes{code}, recipe {report.recipe}, {seeds}; bpb on "
        f"{report.scored_tokens or 0:,} tokens of {report.held_out}"
    )
    for text in report.says:
        out.print(text)
    for row in report.rows:
        if row.refused is not None:
            out.print(f"{row.shape}: {row.refused}")
    out.print(f"models, artifacts and figures are in {report.folder}")
    if report.png is None:
        out.print("no picture: matplotlib is not installed")
    else:
        out.print(f"wrote {report.png}")


def _cells(row: "SizeRow") -> list[str]:
    if row.refused is not None:
        return [row.shape, f"{row.parameters:,}", *["-"] * 3, "refused", "-", "-"]
    return [
        row.shape, f"{row.parameters:,}", number(row.bits_per_weight, ".2f"),
        number(row.float_bpb, ".4f"), number(row.gap, "+.4f"), number(row.artifact_bpb, ".4f"),
        number(row.artifact_spread, ".4f"), number(row.tokens_per_second, ",.0f"),
    ]  # fmt: skip
