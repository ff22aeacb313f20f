"""`golfpack runreport`: its options, and what it prints."""

from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import Force, Json, Strict
from golfpack.commands.render.console import data, note, show_json, warn

EXAMPLES = (
    "Examples: golfpack runreport run -o run.md | golfpack runreport run --notes notes.md --json | "
    "golfpack runreport run --format summary"
)


def runreport(
    run_dir: Annotated[Path, typer.Argument(help="Folder a training run wrote to.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .md to write. Default: print it."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="report|summary", help="Which document.")
    ] = "report",
    notes: Annotated[
        Path | None, typer.Option(help="Markdown with prose for the report's ## sections.")
    ] = None,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Report on a training run: losses, gradient norms, timing, samples, KV-cache memory."""
    from golfpack.runlog.write import RunReportOptions
    from golfpack.runlog.write import runreport as run

    report, text = run(RunReportOptions(run_dir, form, output, notes, strict, force))
    warn(report.warnings)
    if json:
        show_json(report)
    elif output is None:
        data(text)
    if output is not None:
        note(f"wrote {output}")
