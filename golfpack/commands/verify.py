"""`golfpack verify`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Json, Model, ModelArgs, Quiet, Set
from golfpack.commands.render.console import Reporter, out, show_json
from golfpack.commands.render.tables import plain_table
from golfpack.errors import CorruptError

if TYPE_CHECKING:
    from golfpack.inspect.verify import VerifyReport

EXAMPLES = (
    "Examples: golfpack verify x.golf | golfpack verify x.golf --report x.report.json "
    "--against ckpt.pt --json"
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
    from golfpack.inspect.verify import verify as run
    from golfpack.models.choose import choose_family

    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        found = run(path, report, against, tuple(settings or ()), notify, family)
    if json:
        show_json(found)
    else:
        show_verify(found)
    if not found.passed:
        failed = [c for c in found.checks if c.status == "failed"]
        raise CorruptError(
            f"{path}: {failed[0].name}: {failed[0].detail}",
            _NEXT.get(
                failed[0].name,
                "get the file again, or build it again; the checks above say what is still whole",
            ),
        )


def show_verify(report: "VerifyReport") -> None:
    """A line per check, then the verdict."""
    table = plain_table()
    for check in report.checks:
        status = "FAILED" if check.status == "failed" else check.status
        table.add_row(check.name, status, check.detail)
    out.print(table)
    if report.passed:
        out.print(f"{report.path} is whole: {report.bytes:,} bytes")
        out.print(f"sha256 of the file, digest included: {report.sha256}")
