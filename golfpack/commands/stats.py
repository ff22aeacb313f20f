"""`golfpack stats`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import Json
from golfpack.commands.render.console import out, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.eval.report import StatsReport

EXAMPLES = (
    "Examples: golfpack stats seed1.json seed2.json seed3.json --baseline 1.0810 | "
    "golfpack stats a.json b.json c.json --baseline record.json"
)


def stats(
    reports: Annotated[list[Path], typer.Argument(help="Reports of golfpack eval --json.")],
    baseline: Annotated[
        str, typer.Option(help="A report, bits per byte (1.0810), or a loss (2.94nats).")
    ],
    json: Json = False,
) -> None:
    """Test whether runs of several seeds beat a baseline, by the challenge's rule."""
    from golfpack.eval.stats import significance

    report = significance(reports, baseline)
    if json:
        show_json(report)
    else:
        show_stats(report)


def show_stats(report: "StatsReport") -> None:
    """Runs against a baseline, in both units, and the verdict."""
    table = plain_table(
        ("unit", "mean", "std", "baseline", "improvement", "p (better)", "p (margin)"),
        left=("unit",),
    )
    for unit, t in (("nats per token", report.nats), ("bits per byte", report.bpb)):
        table.add_row(
            unit, f"{t['mean']:.6f}", f"{t['std']:.6f}", f"{t['baseline']:.6f}",
            f"{t['improvement']:+.6f}", f"{t['p_better']:.3g}", f"{t['p_margin']:.3g}",
        )  # fmt: skip
    out.print(table)
    out.print(
        f"{len(report.runs)} runs, one-sided t-test. The rule: {report.margin_nats} nats per token "
        f"better at p < {report.significance}. {report.margin_nats} nats / ln 2 = "
        f"{report.margin_bits_per_token:.5f} bits per token; / {report.bytes_per_token:.4f} bytes per "
        f"token = {report.margin_bpb:.5f} bits per byte."
    )
    out.print("the rule is met" if report.meets_rule else "the rule is NOT met")
