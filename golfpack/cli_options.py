"""Options that several commands take."""

import os
from typing import Annotated

import typer

CORES = os.cpu_count() or 1

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option, such as model.softcap=15."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Threads = Annotated[
    int,
    typer.Option(min=1, help="Threads; the result does not depend on it.", show_default="cores"),
]
