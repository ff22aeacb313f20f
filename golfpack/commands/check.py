"""The commands that hold a file to what it says, or to another file. No torch until they run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import (
    Json,
    Model,
    ModelArgs,
    Quiet,
    Set,
)
from golfpack.errors import (
    CorruptError,
    ExitCode,
    UsageError,
)

VERIFY_EXAMPLES = (
    "Examples: golfpack verify x.golf | golfpack verify x.golf --report x.report.json "
    "--against ckpt.pt --json"
)
DIFF_EXAMPLES = (
    "Examples: golfpack diff old.golf new.golf | golfpack diff old.report.json new.report.json --md "
    "| golfpack diff ckpt.pt x.golf --json | golfpack diff a.golf b.golf --exit-code --quiet"
)

# What to do about the first check that failed, where the file itself has passed all of its own.
_NEXT = {
    "report": "the file is whole; give the .report.json of its own build, or build it again",
    "checkpoint": "the file is whole; give the checkpoint it was built from, or build it again",
}


def verify(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    report: Annotated[
        Path | None, typer.Option(help="Its build report: sha256, bytes and budget must agree.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The checkpoint it was built from: tensors must agree.")
    ] = None,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an artifact: every digest, the structure, all tensors decoded, and encoded again."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        files as render_files,
    )
    from golfpack.inspect.verify import verify as run
    from golfpack.models.choose import choose_family

    family = choose_family(model, model_args or ())
    with render.Reporter(quiet) as notify:
        found = run(path, report, against, tuple(settings or ()), notify, family)
    if json:
        render.data(to_json(found))
    else:
        render_files.show_verify(found)
    if not found.passed:
        failed = [c for c in found.checks if c.status == "failed"]
        raise CorruptError(
            f"{path}: {failed[0].name}: {failed[0].detail}",
            _NEXT.get(
                failed[0].name,
                "get the file again, or build it again; the checks above say what is still whole",
            ),
        )


def diff(
    a: Annotated[Path, typer.Argument(help="Artifact, .report.json or checkpoint.")],
    b: Annotated[Path, typer.Argument(help="What it is compared with: any of these, too.")],
    original: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for the artifacts' rel_err.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--md", help="Markdown, for a pull request.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 6 where anything differs.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what changed between two files, overall and tensor by tensor."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        diff as render_diff,
    )
    from golfpack.inspect.diff import diff as run

    if json and markdown:
        raise UsageError("--json and --md are two formats", "give one of them")
    with render.Reporter(quiet) as notify:
        report = run(a, b, original, notify, sys.argv[1:])
    if json:
        render.data(to_json(report))
    elif markdown:
        render_diff.show_markdown(report)
    else:
        render_diff.show_diff(report)
    if exit_code and not report.same:
        raise typer.Exit(ExitCode.DIFFERENT)
