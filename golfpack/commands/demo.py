"""`golfpack demo`: its options, and what it prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import CORES, Json, Quiet, Seed, Threads
from golfpack.commands.render.console import Reporter, number, out, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.build.demo import DemoRow

EXAMPLES = "Example: golfpack demo --out demo"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small model on text every Python carries, build it twice, and compare."""
    from golfpack.build.demo import demo as run

    with Reporter(quiet) as notify:
        rows = run(out, seed=seed, threads=threads, notify=notify)
    if json:
        show_json(rows)
    else:
        show_demo(rows)


def show_demo(rows: "Sequence[DemoRow]") -> None:
    """The demo's last table."""
    table = plain_table(
        ("model", "bytes", "budget", "headroom", "bpb", "quant gap", "KL"), left=("model",)
    )
    for r in rows:
        table.add_row(
            r.model, f"{r.bytes:,}", number(r.budget_bytes, ",d"), number(r.headroom_bytes, ",d"),
            f"{r.val_bpb:.4f}", number(r.quant_gap, "+.4f"), number(r.kl, ".4f"),
        )  # fmt: skip
    out.print(table)
