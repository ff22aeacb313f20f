"""`golfpack inspect`: its options, and what it prints."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Explain, Json, Model, ModelArgs, Quiet, Set
from golfpack.commands.render.console import Reporter, out, show_assumed, show_json, show_notes
from golfpack.commands.render.tensors import read_group, read_table, show_tensors

if TYPE_CHECKING:
    from golfpack.inspect.inspect import InspectReport

EXAMPLES = (
    "Examples: golfpack inspect x.golf | golfpack inspect x.golf --float ckpt.pt --json | "
    "golfpack inspect x.golf --sort kl --explain | golfpack inspect x.golf --group block | "
    "golfpack inspect x.golf --columns name,bytes,step_min,step_max,clipped,worst_row"
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
    from golfpack.inspect.inspect import inspect as run
    from golfpack.models.choose import choose_family

    chosen = None if columns is None else [c.strip() for c in columns.split(",") if c.strip()]
    by = read_group(group, each="none")
    sort, chosen = read_table(by, sort, chosen)
    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        notify("inspect", 0, 0, path.name)
        report = run(path, against, tuple(settings or ()), family)
    if json:
        show_json(report)
    else:
        show_inspect(report, by, sort, chosen, explain)


def show_inspect(
    report: "InspectReport",
    group: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    explain: bool = False,
) -> None:
    """A row per tensor or per group, then the streams."""
    show_notes(report.notes)
    show_tensors(report.tensors, group, sort, columns, explain)
    if report.errors is not None:
        out.print(f"errors against the float weights: {report.errors}")
    out.print(f"{report.parameters:,} parameters, {report.bytes:,} bytes, sha256 {report.sha256}")
    out.print(f"family {report.family}: {_config(report)}")
    if report.source:
        told = ", ".join(f"{k} {v}" for k, v in report.source.items())
        out.print(f"the checkpoint's: {told}")
    show_assumed(report.assumed)
    if report.streams:
        out.print("streams: " + ", ".join(f"{k} {v:,}" for k, v in report.streams.items()))


def _config(report: "InspectReport") -> str:
    """What the config says that the family's defaults do not."""
    from golfpack.models import find_family

    defaults = {f.name: f.default for f in fields(find_family(report.family).config_type)}
    told = [f"{k}={v}" for k, v in report.config.items() if k not in defaults or defaults[k] != v]
    if left := len(report.config) - len(told):
        told.append(f"{left} others at the family's defaults (--json has all)")
    return ", ".join(told)
