"""What golfpack prints, with the other render files. Data goes to stdout, everything else to stderr."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from golfpack.build.demo import DemoRow
from golfpack.commands.render.progress import Reporter as Reporter
from golfpack.inspect.importing import ImportReport
from golfpack.page.page import PageReport
from golfpack.train.report import TrainReport

# A pipe or a file has no width: tables there are as wide as they need to be.
_WIDTH = None if sys.stdout.isatty() else 200
# Values of model options that mean: without this feature.
_OFF = (False, 0, -1, "", "none")


class _Stdout(Console):
    """Stdout. In a pipe or a file lines end where their text does; rich fills a table's last column."""

    def print(self, *objects: Any, **options: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as held:
            super().print(*objects, **options)
        text = re.sub(r" +$", "", held.get(), flags=re.MULTILINE)
        super().print(Text(text), end="", soft_wrap=True)


# Names and paths may hold brackets, which are not meant as rich's markup.
out = _Stdout(highlight=False, soft_wrap=True, width=_WIDTH, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line for people, on stderr."""
    err.print(text, markup=False)


def data(text: str) -> None:
    """Machine-readable output, on stdout, as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_import(report: ImportReport) -> None:
    """What was read and what was written."""
    show_notes(report.notes)
    show_assumed(report.assumed)
    out.print(
        f"family {report.family}, {report.tensors:,} tensors, {report.parameters:,} parameters\n"
        f"wrote {report.checkpoint}, {report.checkpoint_bytes:,} bytes, and its config beside it"
    )


def show_page(report: PageReport) -> None:
    """Where the page is, on stderr; that another was there is not passed over."""
    did = "replaced" if report.replaced else "wrote"
    note(f"{did} {report.page}, {report.page_bytes:,} bytes")


def show_train(report: TrainReport) -> None:
    """Where the checkpoint is and how good it got."""
    val = "" if report.val_loss is None else f", validation loss {report.val_loss:.4f}"
    out.print(
        f"{report.steps:,} steps in {report.seconds:.0f} s, loss {report.final_loss:.4f}{val} nats "
        f"per token\nwrote {report.checkpoint}"
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
