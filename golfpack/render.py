"""What golfpack prints, with the other render files. Data goes to stdout, everything else to stderr."""

import sys
from collections.abc import Sequence
from json import dumps
from math import prod
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golfpack.render_progress import Reporter as Reporter
from golfpack.report.reports import BuildReport, DemoRow, ImportReport, InspectReport
from golfpack.train.trainer import TrainResult

# A pipe or a file has no width: tables there are as wide as they need to be.
_WIDTH = None if sys.stdout.isatty() else 200
# Values of model options that mean: without this feature.
_OFF = (False, 0, -1, "", "none")
# Names and paths may hold brackets, which are not meant as rich's markup.
out = Console(highlight=False, soft_wrap=True, width=_WIDTH, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line for people, on stderr."""
    err.print(text, markup=False)


def data(text: str) -> None:
    """Machine-readable output, on stdout, as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_build(report: BuildReport) -> None:
    """The summary of a build: a row per role, then the budget."""
    table = Table(box=None, pad_edge=False)
    for column in ("role", "tensors", "params", "bytes", "bpw", "rel_err", "SQNR dB", "KL share"):
        table.add_column(column, justify="left" if column == "role" else "right")
    total_kl = sum(t.predicted_kl or 0.0 for t in report.tensors)
    for role in dict.fromkeys(t.role for t in report.tensors):
        rows = [t for t in report.tensors if t.role == role]
        params = sum(prod(t.shape) for t in rows)
        size = sum(t.bytes for t in rows)
        kl = sum(t.predicted_kl or 0.0 for t in rows)
        worst = max((t.rel_err or 0.0 for t in rows), default=0.0)
        sqnr = min((t.sqnr_db for t in rows if t.sqnr_db is not None), default=None)
        table.add_row(
            role, str(len(rows)), f"{params:,}", f"{size:,}", f"{8 * size / max(params, 1):.2f}",
            f"{worst:.4f}", number(sqnr, ".1f"),
            f"{kl / total_kl:.0%}" if total_kl else "-",
        )  # fmt: skip
    out.print(table)
    out.print("rel_err and SQNR: the worst tensor of the role.")
    code = f" + code {report.code_bytes:,}" if report.code_bytes else ""
    size = f"artifact {report.artifact_bytes:,}{code}"
    if report.budget_bytes is not None and report.headroom_bytes is not None:
        share = report.headroom_bytes / report.budget_bytes
        size += (
            f" of {report.budget_bytes:,} bytes, headroom {report.headroom_bytes:,} ({share:.3%})"
        )
    else:
        size += " bytes"
    out.print(f"{size}, {report.bits_per_weight:.3f} bits per weight")
    if report.measured_kl is not None:
        predicted = number(report.predicted_kl, ".5f")
        out.print(
            f"KL to the float model {report.measured_kl:.5f} nats per token on held-out calibration "
            f"tokens (predicted {predicted})"
        )
    out.print(f"sha256 {report.artifact_sha256}")
    if report.artifact:
        out.print(f"wrote {report.artifact}")


def show_inspect(report: InspectReport) -> None:
    """A row per tensor, then the streams."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "tensor",
        "role",
        "shape",
        "scheme",
        "bytes",
        "bpw",
        "zeros",
        "rel_err",
        "SQNR dB",
    ):
        table.add_column(
            column, justify="left" if column in ("tensor", "role", "scheme") else "right"
        )
    for t in report.tensors:
        table.add_row(
            t.name, t.role, "x".join(map(str, t.shape)), t.scheme, f"{t.bytes:,}", f"{t.bpw:.2f}",
            number(t.zeros, ".1%"), number(t.rel_err, ".4f"), number(t.sqnr_db, ".1f"),
        )  # fmt: skip
    out.print(table)
    out.print(f"{report.parameters:,} parameters, {report.bytes:,} bytes, sha256 {report.sha256}")
    out.print(f"family {report.family}: " + ", ".join(f"{k}={v}" for k, v in report.config.items()))
    show_assumed(report.assumed)
    if report.streams:
        out.print("streams: " + ", ".join(f"{k} {v:,}" for k, v in report.streams.items()))


def show_import(report: ImportReport) -> None:
    """What was read and what was written."""
    show_notes(report.notes)
    show_assumed(report.assumed)
    out.print(
        f"family {report.family}, {report.tensors:,} tensors, {report.parameters:,} parameters\n"
        f"wrote {report.checkpoint}, {report.checkpoint_bytes:,} bytes, and its config beside it"
    )


def show_train(result: TrainResult, json: bool) -> None:
    """Where the checkpoint is and how good it got."""
    if json:
        data(dumps({**vars(result), "checkpoint": str(result.checkpoint)}, indent=1))
        return
    val = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
    out.print(
        f"{result.steps:,} steps in {result.seconds:.0f} s, loss {result.final_loss:.4f}{val} nats "
        f"per token\nwrote {result.checkpoint}"
    )


def show_demo(rows: Sequence[DemoRow]) -> None:
    """The demo's last table."""
    table = Table(box=None, pad_edge=False)
    for column in ("model", "bytes", "budget", "headroom", "bpb", "quant gap", "KL"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for r in rows:
        table.add_row(
            r.model, f"{r.bytes:,}", number(r.budget_bytes, ",d"), number(r.headroom_bytes, ",d"),
            f"{r.val_bpb:.4f}", number(r.quant_gap, "+.4f"), number(r.kl, ".4f"),
        )  # fmt: skip
    out.print(table)


def show_assumed(assumed: dict[str, Any]) -> None:
    """What neither the shapes nor the user told, on stderr."""
    if assumed:
        off = [name for name, value in assumed.items() if value in _OFF]
        on = [f"{name}={value}" for name, value in assumed.items() if name not in off]
        parts = [", ".join(on), f"off: {', '.join(off)}" if off else ""]
        says = "; ".join(part for part in parts if part)
        note(f"assumed (shapes cannot tell): {says}; change with --set model.NAME=VALUE")


def show_notes(notes: Sequence[str]) -> None:
    """What was done to a checkpoint's tensors when it was read, on stderr."""
    for text in notes:
        note(f"note: {text}")


def warn(warnings: Sequence[str]) -> None:
    """Warnings, on stderr."""
    for warning in warnings:
        err.print(f"[bold yellow]warning:[/] {escape(warning)}")


def number(value: float | None, spec: str) -> str:
    """A figure for a table; "-" where there is none."""
    return "-" if value is None else format(value, spec)
