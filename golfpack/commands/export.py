"""`golfpack export`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Force, Json, Model, ModelArgs, Quiet
from golfpack.commands.render.console import Reporter, out, show_json

if TYPE_CHECKING:
    from golfpack.export.export import ExportReport

EXAMPLES = (
    "Examples: golfpack export x.golf --out dist | golfpack export x.golf --out dist --minify"
)


def export(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write into. Default: NAME.export."),
    ] = None,
    minify: Annotated[
        bool,
        typer.Option("--minify", help="The decoder in few bytes: names shortened, then packed."),
    ] = False,
    model: Model = None,
    model_args: ModelArgs = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an artifact and one Python file that decodes it with numpy alone, without golfpack."""
    from golfpack.export.export import export as run
    from golfpack.models.choose import choose_family

    folder = folder or Path(f"{path.stem}.export")
    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        report = run(path, folder, notify, minified=minify, family=family, force=force)
    if json:
        show_json(report)
    else:
        show_export(report)


def show_export(report: "ExportReport") -> None:
    """What was written, and what it takes to use it."""
    packages = ["numpy", *report.packages]
    total = report.artifact_bytes + report.decoder_bytes
    out.print(
        f"wrote {report.artifact}, {report.artifact_bytes:,} bytes\n"
        f"wrote {report.decoder}, {report.decoder_bytes:,} bytes; both {total:,}\n"
        f"it needs {', '.join(packages)}; {report.tensors:,} names, every bit as golfpack decodes them"
    )
    if report.packages:
        out.print(
            f"an artifact of recipe rd does without {' and '.join(report.packages)}: "
            "numpy alone reads it"
        )
