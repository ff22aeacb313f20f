"""`golfpack report`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Json, Model, ModelArgs, Set
from golfpack.commands.render.console import note, show_json

if TYPE_CHECKING:
    from golfpack.page.page import PageReport

EXAMPLES = (
    "Examples: golfpack report x.golf | golfpack report x.golf --eval x.eval.json -o page.html | "
    "golfpack report x.golf --float ckpt.pt"
)


def report(
    path: Annotated[
        Path, typer.Argument(help=".golf artifact, or the .report.json of a build that failed.")
    ],
    source: Annotated[
        Path | None,
        typer.Option("--report", help="Its build report. Default: NAME.report.json beside it."),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="What golfpack eval --json printed of it.")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="sweep.report.json of its checkpoint: sizes as measured.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--float", help="Float checkpoint, for errors that no report tells."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page. Default: NAME.html beside it.")
    ] = None,
    model: Model = None,
    model_args: ModelArgs = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is no page of golfpack's, too.")
    ] = False,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Write where the bytes went and what each tensor lost as one self-contained HTML page."""
    from golfpack.models.choose import choose_family
    from golfpack.page.make import PageOptions
    from golfpack.page.make import report as run

    options = PageOptions(
        path, source, evaluation, sweep, against, output, tuple(settings or ()), force,
        choose_family(model, model_args or ()),
    )  # fmt: skip
    found = run(options)
    for text in found.missing:
        note(f"not shown: {text}")
    if json:
        show_json(found)
    else:
        show_page(found)


def write_page(artifact: str | None, *, force: bool) -> None:
    """What `build --html` adds: the page of the artifact that was just built."""
    from golfpack.page.make import PageOptions
    from golfpack.page.make import report as run

    if artifact is None:
        note("no page: --dry-run writes no file")
        return
    show_page(run(PageOptions(Path(artifact), force=force)))


def show_page(report: "PageReport") -> None:
    """Where the page is, on stderr; that another was there is not passed over."""
    did = "replaced" if report.replaced else "wrote"
    note(f"{did} {report.page}, {report.page_bytes:,} bytes")
