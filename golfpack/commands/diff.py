"""`golfpack diff`: its options, and what it prints, as tables or as Markdown."""

import re
import sys
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golfpack.commands.options import Json, Quiet, Set
from golfpack.commands.render.console import Reporter, data, number, out, show_json
from golfpack.commands.render.tables import fitting, left_out_line, plain_table, table_of
from golfpack.errors import ExitCode, UsageError
from golfpack.measure.columns import Column

if TYPE_CHECKING:
    from rich.table import Table

    from golfpack.inspect.diff_report import Change, DiffReport, DiffSide, TensorDiff, TensorSide

EXAMPLES = (
    "Examples: golfpack diff old.golf new.golf | golfpack diff old.report.json new.report.json --md "
    "| golfpack diff ckpt.pt x.golf --json | golfpack diff a.golf b.golf --exit-code --quiet"
)

_OVERALL = ("what", "a", "b", "change")
_LEFT = frozenset({"what", "tensor", "scheme", "steps"})


class _Column(Column):
    """A column of a row that is a mapping of texts by column."""

    def text(self, row: Any) -> str:
        return row[self.name]


# A footnote explains what a heading cannot say; columns that share one say it once.
_REL_ERR = "rel_err: to the float weights."
_TENSORS = (
    _Column("name", "tensor", "", "", 99, left=True),
    _Column("scheme", "scheme", "", "", 60, left=True),
    _Column("bytes_a", "bytes a", "", "", 96),
    _Column("bytes_b", "bytes b", "", "", 97),
    _Column("change", "change", "", "", 98),
    _Column("rel_err_a", "rel_err a", _REL_ERR, "", 79),
    _Column("rel_err_b", "rel_err b", _REL_ERR, "", 80),
    _Column("weights", "weights", "weights: |b - a| / |a|.", "", 85),
    _Column("codes", "codes", "codes: how many are another number.", "", 84),
    _Column("steps", "steps", "steps: whether they are others.", "", 50, left=True),
)
# A change of more than this many times the figure is no share of it.
_TENFOLD = 10
_SHA256 = re.compile("[0-9a-f]{64}")


def diff(
    a: Annotated[Path, typer.Argument(help="Artifact, .report.json or checkpoint.")],
    b: Annotated[Path, typer.Argument(help="What it is compared with: any of these, too.")],
    original: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for the artifacts' rel_err.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--md", help="Markdown, for a pull request.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 6 where anything differs.")
    ] = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what changed between two files, overall and tensor by tensor."""
    from golfpack.inspect.diff import diff as run

    if json and markdown:
        raise UsageError("--json and --md are two formats", "give one of them")
    with Reporter(quiet) as notify:
        report = run(a, b, original, notify, sys.argv[1:], settings or ())
    if json:
        show_json(report)
    elif markdown:
        show_markdown(report)
    else:
        show_diff(report)
    if exit_code and not report.same:
        raise typer.Exit(ExitCode.DIFFERENT)


def show_diff(report: "DiffReport") -> None:
    """The two files, what changed overall, and a row per tensor that did."""
    for letter, side in (("a", report.a), ("b", report.b)):
        out.print(f"{letter}  {_side(side)}")
    if report.same:
        out.print(_verdict(report))
        return
    if report.changes:
        out.print(_overall([_change(c) for c in report.changes]))
    if report.tensors:
        rows = [_tensor(t) for t in report.tensors]
        limit = out.width if out.is_terminal else None
        shown, widths, left_out = fitting(_with_figures(rows), rows, limit)
        out.print(table_of(shown, widths, rows))
        if key := _key(shown):
            out.print(key)
        if left_out:
            out.print(left_out_line(left_out, out.width))
    out.print(_verdict(report))


def show_markdown(report: "DiffReport") -> None:
    """The same as Markdown, for a pull request."""
    lines = [f"- **{letter}**: {_side(s)}" for letter, s in (("a", report.a), ("b", report.b))]
    if report.changes:
        lines += ["", *_markdown(_OVERALL, [_change(c) for c in report.changes])]
    lines += ["", _verdict(report)]
    if report.tensors:
        lines += ["", "<details><summary>Tensor by tensor</summary>", ""]
        rows = [_tensor(t) for t in report.tensors]
        shown = _with_figures(rows)
        cells = [[c.text(row) for c in shown] for row in rows]
        lines += _markdown([c.header for c in shown], cells)
        lines += ["", _key(shown), "", "</details>"]
    data("\n".join(lines))


def _with_figures(rows: Sequence[Mapping[str, str]]) -> list[Column]:
    """The columns that say something of any tensor."""
    return [c for c in _TENSORS if any(c.text(row) not in ("-", "") for row in rows)]


def _key(columns: Sequence[Column]) -> str:
    return " ".join(dict.fromkeys(c.explain for c in columns if c.explain))


def _side(side: "DiffSide") -> str:
    told = "" if side.kind != "artifact" or side.report else ", no report of it beside it"
    return f"{side.path}: {side.kind}, {side.bytes:,} bytes, sha256 {side.sha256[:16]}{told}"


def _verdict(report: "DiffReport") -> str:
    total = len(report.tensors) + report.unchanged
    if report.same:
        return f"no difference, in all {total} tensors"
    return f"{len(report.tensors)} of {total} tensors differ"


def _change(c: "Change") -> list[str]:
    return [c.what, _value(c.a), _value(c.b), _delta(c.a, c.b)]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value[:16] if _SHA256.fullmatch(value) else value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return _options(value)
    return ", ".join(_value(v) for v in value) or "none"


def _options(table: Mapping[str, Any]) -> str:
    """A table as words: "codec zlib (level 9), order row"; what is empty goes without saying."""
    told = {k: v for k, v in table.items() if v not in ([], {}, "", None)}
    named = told.pop("id", None)
    words = ", ".join(f"{k} {_value(v)}" for k, v in told.items())
    if named is None:
        return words or "none"
    return f"{named} ({words})" if words else str(named)


def _delta(a: Any, b: Any) -> str:
    """A change of a figure, with its share of the first."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b)):
        return ""
    whole = isinstance(a, int) and isinstance(b, int)
    change = f"{b - a:+,}" if whole else f"{b - a:+.5g}"
    share = (b - a) / abs(a) if a else inf
    return f"{change} ({share:+.1%})" if abs(share) < _TENFOLD else change


def _tensor(t: "TensorDiff") -> dict[str, str]:
    a, b = t.a, t.b
    steps = "" if t.steps is None else ("others" if t.steps else "same")
    cells = [
        t.name, _arrow(_scheme(a, b), _scheme(b, a)), _bytes(a), _bytes(b), _gained(a, b),
        _error(a), _error(b), number(t.weights, ".4f"), number(t.codes, ".1%"), steps,
    ]  # fmt: skip
    return {c.name: cell for c, cell in zip(_TENSORS, cells, strict=True)}


def _scheme(own: "TensorSide | None", other: "TensorSide | None") -> str:
    """The scheme of a side, with its shape where that is not the other's."""
    if own is None:
        return "none"
    if other is None or own.shape == other.shape:
        return own.scheme
    return f"{own.scheme} {'x'.join(map(str, own.shape))}"


def _arrow(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def _bytes(side: "TensorSide | None") -> str:
    return "-" if side is None else f"{side.bytes:,}"


def _gained(a: "TensorSide | None", b: "TensorSide | None") -> str:
    return f"{(0 if b is None else b.bytes) - (0 if a is None else a.bytes):+,}"


def _error(side: "TensorSide | None") -> str:
    return number(None if side is None else side.rel_err, ".4f")


def _overall(rows: Sequence[Sequence[str]]) -> "Table":
    """What changed overall; here a narrow terminal gets longer rows, for every column matters."""
    table = plain_table(_OVERALL, _LEFT)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    dashes = ["---" if column in _LEFT else "---:" for column in columns]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in ([*columns], dashes, *cells)]
