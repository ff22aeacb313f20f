"""`golfpack list`: its options, and what it prints."""

from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.options import Json
from golfpack.commands.render.console import out, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.inspect.listing import ListReport

EXAMPLES = "Examples: golfpack list recipes | golfpack list ttt --json | golfpack list"


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help=f"{', '.join(complete.KINDS[:-1])} or {complete.KINDS[-1]}. Default: these.",
            autocompletion=complete.kind,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List what options and recipes can name, each with a line on what it is."""
    from golfpack.inspect.listing import list_names

    report = list_names(kind)
    if json:
        show_json(report)
    else:
        show_list(report)


def show_list(report: "ListReport") -> None:
    """A name and what it is, line by line."""
    table = plain_table()
    for entry in report.entries:
        table.add_row(entry.name, entry.about)
    out.print(table)
    out.print(f"used in: {report.used}")
