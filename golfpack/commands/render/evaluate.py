"""Evaluations and statistics as tables, printed through `render`."""

from rich.table import Table

from golfpack.commands.render.console import out
from golfpack.eval.report import (
    EvalReport,
    StatsReport,
)


def show_eval(report: EvalReport) -> None:
    """The figures of an evaluation."""
    table = Table(box=None, pad_edge=False, show_header=False)
    training = "" if report.ttt == "none" else f", test-time training {report.ttt}"
    for name, value in (
        ("val_loss", f"{report.val_loss:.6f} nats per token"),
        ("val_bpb", f"{report.val_bpb:.6f} bits per byte"),
        ("scored", f"{report.scored_tokens:,} of {report.targets:,} targets, once each"),
        ("bytes", f"{report.scored_bytes:,} by the {_bytes_source(report)}"),
        ("audit", _audit_line(report.byte_audit)),
        ("documents", _documents_line(report)),
        ("mode", f"{report.mode}, window {report.window}{_stride(report)}{training}"),
        ("legality", _legality_line(report)),
        ("model", f"{report.model_bytes:,} bytes, sha256 {report.model_sha256[:16]}"),
        ("tokens", f"sha256 {report.tokens_sha256[:16]}"),
        ("seconds", f"{report.seconds:.1f} ({report.tokens_per_second:,.0f} tokens per second)"),
    ):
        table.add_row(name, value)
    if report.quant_gap is not None:
        table.add_row("float", f"{report.float_bpb:.6f} bits per byte")
        table.add_row("quant gap", f"{report.quant_gap:+.6f} bits per byte")
    out.print(table)


def _bytes_source(report: EvalReport) -> str:
    if report.bytes_source == "table":
        return "tokenizer's table"
    return f"side-car {report.bytes_source}"


def _stride(report: EvalReport) -> str:
    return f", stride {report.options['stride']}" if report.mode == "sliding" else ""


def _documents_line(report: EvalReport) -> str:
    tried = report.round_trip
    line = f"{report.documents:,}"
    if tried["documents"]:
        line += f"; {tried['lossy']:,} of {tried['documents']:,} whole ones do not round-trip"
    return line


def _legality_line(report: EvalReport) -> str:
    if report.legality is None:
        return "not checked"
    return ", ".join(f"{c['name']} {'ok' if c['passed'] else 'FAILED'}" for c in report.legality)


def _audit_line(audit: dict[str, int]) -> str:
    line = f"{audit['table_bytes']:,} bytes by the table"
    if audit["uncounted_spaces"]:
        line += f" + {audit['uncounted_spaces']:,} spaces it leaves out by rule"
    return line + f" = {audit['decoded_bytes']:,} decoded"


def show_stats(report: StatsReport) -> None:
    """Runs against a baseline, in both units, and the verdict."""
    table = Table(box=None, pad_edge=False)
    for column in ("unit", "mean", "std", "baseline", "improvement", "p (better)", "p (margin)"):
        table.add_column(column, justify="left" if column == "unit" else "right")
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
