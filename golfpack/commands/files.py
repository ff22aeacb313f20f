"""The commands that look into files or convert them. No torch until a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import (
    Checkpoint,
    Explain,
    Force,
    Json,
    Model,
    ModelArgs,
    Quiet,
    Set,
)

INSPECT_EXAMPLES = (
    "Examples: golfpack inspect x.golf | golfpack inspect x.golf --float ckpt.pt --json | "
    "golfpack inspect x.golf --sort kl --explain | golfpack inspect x.golf --group block | "
    "golfpack inspect x.golf --columns name,bytes,step_min,step_max,clipped,worst_row"
)
UNPACK_EXAMPLES = "Example: golfpack unpack x.golf -o weights.safetensors"
IMPORT_EXAMPLES = (
    "Examples: golfpack import model.safetensors -o ckpt.safetensors | golfpack import best.pt | "
    "golfpack import net.pt --model net.py:Net --model-args dim=64"
)


def inspect(
    path: Annotated[Path, typer.Argument(help=".golf artifact or checkpoint.")],
    against: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for rel_err and SQNR.")
    ] = None,
    model: Model = None,
    model_args: ModelArgs = None,
    group: Annotated[
        str, typer.Option(help="Rows by role or block, or none: each tensor.")
    ] = "none",
    sort: Annotated[
        str | None, typer.Option(help="A column, by heading or JSON key: most first, text A to Z.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns, with commas, by heading or JSON key; see --explain."),
    ] = None,
    explain: Explain = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a file holds, tensor by tensor; errors where the build's report lies beside it."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import (
        build as render_build,
    )
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.inspect.inspect import inspect as run
    from golfpack.models.choose import choose_family

    chosen = None if columns is None else [c.strip() for c in columns.split(",")]
    by = render_build.read_group(group, each="none")
    sort, chosen = render_build.read_table(by, sort, chosen)
    family = choose_family(model, model_args or ())
    with render.Reporter(quiet) as notify:
        notify("inspect", 0, 0, path.name)
        report = run(path, against, tuple(settings or ()), family)
    if json:
        render.data(to_json(report))
    else:
        render_build.show_inspect(report, by, sort, chosen, explain)


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
    from golfpack.commands.render import console as render
    from golfpack.inspect.inspect import unpack as run

    output = output or Path(f"{path.stem}.unpacked.safetensors")
    with render.Reporter(quiet) as notify:
        notify("unpack", 0, 0, path.name)
        size = run(path, output, force=force)
    render.note(f"wrote {output}, {size:,} bytes")


def import_(
    checkpoint: Checkpoint,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .safetensors to write. Default: NAME.imported.safetensors."
        ),
    ] = None,
    model: Model = None,
    model_args: ModelArgs = None,
    force: Force = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert any checkpoint to safetensors with its config beside it, every tied tensor once."""
    from golfpack.base.documents import to_json
    from golfpack.commands.render import console as render
    from golfpack.inspect.importing import import_checkpoint
    from golfpack.models.choose import choose_family

    output = output or Path(f"{checkpoint.stem}.imported.safetensors")
    family = choose_family(model, model_args or ())
    with render.Reporter(quiet) as notify:
        notify("import", 0, 0, checkpoint.name)
        report = import_checkpoint(checkpoint, output, tuple(settings or ()), family, force=force)
    if json:
        render.data(to_json(report))
    else:
        render.show_import(report)
