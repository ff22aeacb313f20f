"""The table of `golfpack compare`."""

from collections.abc import Sequence
from pathlib import Path

from golfpack.commands.render.console import Reporter, out
from golfpack.compare.report import CompareReport, CompareRow


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
