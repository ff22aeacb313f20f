"""The commands about golfpack itself: what it knows by name, and what it runs on."""

from typing import Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.options import Json

LIST_EXAMPLES = "Examples: golfpack list recipes | golfpack list ttt --json | golfpack list"
ENV_EXAMPLES = "Examples: golfpack env | golfpack env --json > env.json"


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
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        files as render_files,
    )
    from golfpack.inspect.listing import list_names

    report = list_names(kind)
    if json:
        render.data(to_json(report))
    else:
        render_files.show_list(report)


def env(json: Json = False) -> None:
    """Show versions, threads, memory and devices, for a bug report; no names, no secrets."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.commands.render import (
        files as render_files,
    )
    from golfpack.inspect.environment import environment

    report = environment()
    if json:
        render.data(to_json(report))
    else:
        render_files.show_env(report)
