"""What `golfpack compare` and `golfpack sweep` print: one table, and the words below it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from golfpack.commands.render.console import Reporter, number, out, show_assumed, show_json
from golfpack.compare.compare import compare
from golfpack.compare.report import CompareReport, CompareRow
from golfpack.compare.rows import CompareOptions, require_any

_WHERE = {
    "evaluation tokens": "on the first {kl_tokens:,} of the evaluation's tokens",
    "held-out calibration tokens": "on held-out calibration tokens",
    "prediction": "as predicted: nothing was built",
}
# Heading, width, and the figure as text.
_Column = tuple[str, int, Callable[[CompareRow], str]]


def run_comparison(options: CompareOptions, json: bool, quiet: bool) -> None:
    """Compare, and print the table or the document.

    Raises:
        GolfpackError: as `compare`. BudgetError: every row was refused.
    """
    with Reporter(quiet) as notify:
        table = None if json else CompareTable(options.recipes, options.budgets, notify)
        report = compare(options, notify, table)
    show_assumed(report.assumed)
    if json:
        show_json(report)
    else:
        show_comparison(report, words=options.command == "sweep")
    require_any(report.rows)


class CompareTable:
    """Prints a comparison's table: called with the report so far, prints its newest row.

    A single recipe has no column, and neither have figures that no row will have.
    """

    def __init__(self, recipes: Sequence[str], budgets: Sequence[str], reporter: Reporter) -> None:
        """Widths follow what was asked for, as no row is known yet."""
        self.reporter = reporter
        self.columns: list[_Column] = []
        self.names = max(6, *(len(Path(r).name.removesuffix(".toml")) for r in recipes))
        self.budget = max([6, *(len(b) for b in budgets)])

    def __call__(self, report: CompareReport) -> None:
        with self.reporter.paused():
            if report.rows:
                out.print(self._row(report.rows[-1], len(report.recipes) > 1))
                return
            self.columns = _columns(report)
            if report.float_bpb is not None:
                size = f"{report.float_bytes:,} bytes, {report.float_bpb:.6f} bits per byte"
                out.print(f"float model: {size}")
            head = f"{'budget':>{self.budget}}"
            head = f"{'recipe':<{self.names}}  {head}" if len(report.recipes) > 1 else head
            out.print("  ".join([head, *(f"{name:>{width}}" for name, width, _ in self.columns)]))

    def _row(self, row: CompareRow, named: bool) -> str:
        start = f"{row.budget:>{self.budget}}"
        start = f"{row.recipe:<{self.names}}  {start}" if named else start
        if row.refused is not None:
            return f"{start}  refused: {row.refused}"
        notes = [f"{len(row.warnings)} warnings"] if row.warnings else []
        notes += ["from an earlier run"] if row.reused else []
        figures = [f"{text(row):>{width}}" for _, width, text in self.columns]
        return "  ".join([start, *figures, ", ".join(notes)]).rstrip()


def _columns(report: CompareReport) -> list[_Column]:
    built, scored = report.kl_source != "prediction", report.float_bpb is not None
    found: list[_Column] = [("bytes", 10, lambda r: number(r.artifact_bytes, ",d"))]
    if built:
        found += [
            ("headroom", 9, lambda r: number(r.headroom_bytes, ",d")),
            ("share", 7, lambda r: number(r.headroom_share, ".3%")),
        ]
    found.append(("bpw", 6, lambda r: number(r.bits_per_weight, ".3f")))
    if scored:
        found.append(("bpb", 7, lambda r: number(r.val_bpb, ".4f")))
    if scored or report.tokenizer is not None:
        heading = "quant gap" if scored else "bpb loss"
        found.append((heading, 9, lambda r: number(r.quant_gap, "+.5f")))
    found.append(("KL", 8, lambda r: number(r.kl, ".5f")))
    if built:
        found.append(("build s", 7, lambda r: number(r.build_seconds, ".1f")))
    return found


def show_comparison(report: CompareReport, words: bool) -> None:
    """What the table's figures are, where the artifacts lie, and in words what more bytes would buy."""
    for row in report.rows:
        for warning in row.warnings:
            name = f"{row.recipe} " if len(report.recipes) > 1 else ""
            out.print(f"{name}{row.budget}: {warning}")
    where = _WHERE[report.kl_source].format(kl_tokens=report.kl_tokens or 0)
    if report.float_bpb is not None:
        out.print(f"bpb on {report.scored_tokens:,} tokens, window {report.window}")
    recipe = f"recipe {report.recipes[0]}; " if len(report.recipes) == 1 else ""
    shared = "; build s without calibration, which rows share" if report.folder else ""
    out.print(f"{recipe}KL to the float model in nats per token, {where}{shared}")
    if report.folder is not None:
        out.print(f"artifacts, their reports and these rows are in {report.folder}")
    if report.png is not None:
        out.print(f"wrote {report.png}")
    for row in report.rows:
        if words and row.more is not None:
            out.print(row.more.says)
