"""`golfpack unpack`: its options, and what it prints."""

from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import Force, Json, Quiet
from golfpack.commands.render.console import Reporter, note, show_json, show_notes
from golfpack.errors import UsageError

EXAMPLES = (
    "Examples: golfpack unpack x.golf -o weights.safetensors | golfpack unpack x.golf --hf folder | "
    "golfpack unpack x.golf --hf folder --like checkpoint_folder"
)


def unpack(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .safetensors to write. Default: NAME.unpacked.safetensors."
        ),
    ] = None,
    hf: Annotated[
        Path | None,
        typer.Option("--hf", metavar="FOLDER", help="Write a folder that transformers loads."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With --hf: take config.json and the tokenizer of this folder."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="With --hf: tokenizer.json, SentencePiece BPE model or llama2.c's."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the tensors: float32, bfloat16, float16 or source, the checkpoint's. Default: "
            "float32, which is exact; with --hf source."
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an artifact's weights as its checkpoint had them: as safetensors, or for transformers."""
    from golfpack.inspect.inspect import unpack as to_file
    from golfpack.inspect.transformers_folder import unpack_transformers

    if hf is not None and output is not None:
        raise UsageError("--output names a file, --hf a folder", "give one of them")
    for name, given in (("--like", like), ("--tokenizer", tokenizer)):
        if given is not None and hf is None:
            raise UsageError(f"{name} goes with --hf", "add --hf FOLDER, or leave it out")
    with Reporter(quiet) as notify:
        notify("unpack", 0, 0, path.name)
        if hf is None:
            output = output or Path(f"{path.stem}.unpacked.safetensors")
            report = to_file(path, output, dtype=dtype or "float32", force=force)
        else:
            report = unpack_transformers(
                path, hf, like=like, tokenizer=tokenizer, dtype=dtype or "source", force=force
            )
    show_notes(report.notes)
    if json:
        show_json(report)
    elif hf is None:
        note(f"wrote {output}, {next(iter(report.files.values())):,} bytes")
    else:
        names = ", ".join(f"{name} {size:,}" for name, size in report.files.items())
        note(f"wrote {hf}, {report.model_type}, {report.dtype}; bytes: {names}")
