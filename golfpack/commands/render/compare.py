"""The tables of `golfpack plan` and `golfpack compare`."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from rich.table import Table

from golfpack.build.plan_report import PlanReport
from golfpack.commands.render.console import (
    Reporter,
    number,
    out,
)
from golfpack.compare.report import (
    CompareReport,
    CompareRow,
)


def show_plan(report: PlanReport) -> None:
    """A row per budget; for one budget, a row per tensor before it."""
    if any(t.bytes is not None for t in report.tensors):
        out.print(_plan_tensors(report))
    table = Table(box=None, pad_edge=False)
    for column in ("budget", "expected bytes", "bpw", "dial", "predicted KL", "predicted bpb loss"):
        table.add_column(column, justify="right")
    for r in report.rows:
        table.add_row(
            number(r.budget_bytes, ",d"), f"{r.artifact_bytes:,}", f"{r.bits_per_weight:.2f}",
            f"{r.dial:.3g}", number(r.predicted_kl, ".5f"), number(r.predicted_bpb, "+.5f"),
        )  # fmt: skip
    out.print(table)
    tokens = 0 if report.calibration is None else report.calibration["tokens"]
    why = "no gradients were measured, so no KL is predicted"
    if report.kl_ratio is not None:
        why = (
            "KL in nats per token; the quadratic model is corrected by "
            f"{report.kl_ratio:.2f}, from one probe"
        )
    out.print(f"recipe {report.recipe}, {tokens:,} calibration tokens; {why}")
    t = report.time
    out.print(
        f"a build should take about {t.build_seconds:.0f} s: {t.rounds} rounds, as is typical, of "
        f"{t.round_seconds:.1f} s like the probe's, after {t.ready_seconds:.1f} s of preparation"
    )


def _plan_tensors(report: PlanReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("tensor", "role", "shape", "scheme", "expected bytes", "bpw", "KL share"):
        left = column in ("tensor", "role", "scheme")
        table.add_column(column, justify="left" if left else "right")
    total_kl = sum(t.predicted_kl or 0.0 for t in report.tensors)
    for t in report.tensors:
        size = t.bytes or 0
        share = None if not total_kl or t.predicted_kl is None else t.predicted_kl / total_kl
        table.add_row(
            t.name, t.role, "x".join(map(str, t.shape)), t.label, f"{size:,}",
            f"{8 * size / max(prod(t.shape), 1):.2f}", number(share, ".1%"),
        )  # fmt: skip
    return table


class CompareTable:
    """Prints the table of a compare as rows come: called with the report so far, its newest row."""

    def __init__(self, recipes: Sequence[str], budgets: Sequence[str], reporter: Reporter) -> None:
        self.recipe = max(6, *(len(Path(r).name.removesuffix(".toml")) for r in recipes))
        self.budget = max(6, *(len(b) for b in budgets))
        self.reporter = reporter

    def __call__(self, report: CompareReport) -> None:
        with self.reporter.paused():
            out.print(self._row(report.rows[-1]) if report.rows else self._head(report))

    def _head(self, report: CompareReport) -> str:
        return (
            f"float model: {report.float_bytes:,} bytes, {report.float_bpb:.6f} bits per byte\n"
            f"{'recipe':<{self.recipe}}  {'budget':>{self.budget}}  {'bytes':>10}  {'headroom':>9}"
            f"  {'share':>7}  {'bpw':>6}  {'bpb':>7}  {'quant gap':>9}  {'KL':>8}  {'build s':>7}"
        )

    def _row(self, row: CompareRow) -> str:
        start = f"{row.recipe:<{self.recipe}}  {row.budget:>{self.budget}}"
        if row.refused is not None:
            return f"{start}  refused: {row.refused}"
        notes = [f"{len(row.warnings)} warnings"] if row.warnings else []
        notes += ["from an earlier run"] if row.reused else []
        figures = (
            f"{row.artifact_bytes:>10,}  {row.headroom_bytes:>9,}  {row.headroom_share:>7.3%}  "
            f"{row.bits_per_weight:>6.3f}  {row.val_bpb:>7.4f}  {row.quant_gap:>+9.5f}  "
            f"{row.kl:>8.5f}  {row.build_seconds:>7.1f}"
        )
        return f"{start}  {figures}  {', '.join(notes)}".rstrip()


def show_compare(report: CompareReport) -> None:
    """What the table's figures are, and where the artifacts lie."""
    out.print(
        f"bpb on {report.scored_tokens:,} tokens, window {report.window}; KL to the float model in nats "
        f"per token, on the first {report.kl_tokens:,} of them; build s without calibration, which "
        "rows share"
    )
    warned = [r for r in report.rows if r.warnings]
    for row in warned:
        out.print(f"{row.recipe} {row.budget}: {'; '.join(row.warnings)}")
    out.print(f"artifacts, their reports and these rows are in {report.folder}")
