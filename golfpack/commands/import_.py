"""`golfpack import`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Checkpoint, Force, Json, Model, ModelArgs, Quiet, Set
from golfpack.commands.render.console import Reporter, out, show_assumed, show_json, show_notes

if TYPE_CHECKING:
    from golfpack.inspect.importing import ImportReport

EXAMPLES = (
    "Examples: golfpack import model.safetensors -o ckpt.safetensors | golfpack import best.pt | "
    "golfpack import net.pt --model net.py:Net --model-args dim=64"
)


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
    from golfpack.inspect.importing import import_checkpoint
    from golfpack.models.choose import choose_family
    from golfpack.models.folder import checkpoint_stem

    output = output or Path(f"{checkpoint_stem(checkpoint)}.imported.safetensors")
    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        notify("import", 0, 0, checkpoint.name)
        report = import_checkpoint(checkpoint, output, tuple(settings or ()), family, force=force)
    if json:
        show_json(report)
    else:
        show_import(report)


def show_import(report: "ImportReport") -> None:
    """What was read and what was written."""
    show_notes(report.notes)
    show_assumed(report.assumed)
    out.print(
        f"family {report.family}, {report.tensors:,} tensors, {report.parameters:,} parameters\n"
        f"wrote {report.checkpoint}, {report.checkpoint_bytes:,} bytes, and its config beside it"
    )
