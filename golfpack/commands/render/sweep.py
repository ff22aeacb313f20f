"""The table of `golfpack sweep`; it prints through `commands/render/console.py`."""

from rich.table import Table

from golfpack.commands.render.console import number, out
from golfpack.compare.sweep_report import SweepReport, SweepRow

_WHERE = {
    "evaluation tokens": "on the first {kl_tokens:,} of the evaluation's tokens",
    "held-out calibration tokens": "on held-out calibration tokens",
    "prediction": "as predicted: nothing was built",
}


def show_sweep(report: SweepReport) -> None:
    """A row per budget, then what more bytes would buy, in words."""
    out.print(_table(report))
    for row in report.rows:
        if row.refused is not None:
            out.print(f"{row.budget} refused: {row.refused}")
        for warning in row.warnings:
            out.print(f"{row.budget}: {warning}")
    for row in report.rows:
        if row.more is not None:
            out.print(row.more.says)
    where = _WHERE[report.kl_source].format(kl_tokens=report.kl_tokens or 0)
    out.print(f"recipe {report.recipe}; KL to the float model in nats per token, {where}")
    if report.float_bpb is not None:
        out.print(
            f"bpb on {report.scored_tokens:,} tokens, window {report.window}; the float model has "
            f"{report.float_bpb:.6f}"
        )
    if report.folder is not None:
        out.print(f"artifacts, their reports and these rows are in {report.folder}")
    if report.png is not None:
        out.print(f"wrote {report.png}")


def _table(report: SweepReport) -> Table:
    columns = ["budget", "bytes", "headroom", "bpw", "KL"]
    columns += ["bpb"] if report.float_bpb is not None else []
    columns += ["bpb loss"] if any(r.bpb_loss is not None for r in report.rows) else []
    columns += ["" if report.kl_source == "prediction" else "build s"]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    for row in report.rows:
        cells = _cells(row)
        table.add_row(*(cells.get(column, "") for column in columns))
    return table


def _cells(row: SweepRow) -> dict[str, str]:
    seconds = number(row.build_seconds, ".1f")
    return {
        "budget": row.budget,
        "bytes": number(row.artifact_bytes, ",d"),
        "headroom": number(row.headroom_bytes, ",d"),
        "bpw": number(row.bits_per_weight, ".3f"),
        "KL": number(row.kl, ".5f"),
        "bpb": number(row.val_bpb, ".4f"),
        "bpb loss": number(row.bpb_loss, "+.5f"),
        "build s": f"{seconds} (earlier)" if row.reused else seconds,
    }
