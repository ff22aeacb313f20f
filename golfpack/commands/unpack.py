"""`golfpack unpack`: its options, and what it prints."""

from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import Force, Quiet
from golfpack.commands.render.console import Reporter, note

EXAMPLES = "Example: golfpack unpack x.golf -o weights.safetensors"


def unpack(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .safetensors to write. Default: NAME.unpacked.safetensors."
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write an artifact's weights as float32 safetensors, with the model's config beside it."""
    from golfpack.inspect.inspect import unpack as run

    output = output or Path(f"{path.stem}.unpacked.safetensors")
    with Reporter(quiet) as notify:
        notify("unpack", 0, 0, path.name)
        size = run(path, output, force=force)
    note(f"wrote {output}, {size:,} bytes")
