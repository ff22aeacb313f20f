"""Builds and files as tables, tensor by tensor; they print through `render`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from golfpack.errors import UsageError
from golfpack.render import out, show_assumed, show_notes
from golfpack.report.columns import (
    COLUMNS,
    GROUP_COLUMNS,
    GROUPINGS,
    SORTS,
    TENSOR_COLUMNS,
    WORST,
    Column,
    grouped,
    ordered,
    worst,
)
from golfpack.report.reports import BuildReport, InspectReport
from golfpack.report.tensors import TensorReport

# Between columns.
_GAP = 2
# Columns of groups that are not sums, as a line below the table calls them.
_OF_WORST = {"rel_err": "rel_err", "sqnr_db": "SQNR"}
# A name is shortened to this before any column of figures is left out.
_SHORT_NAME = 24


def show_build(report: BuildReport, group: str | None = "role", explain: bool = False) -> None:
    """The summary of a build: its tensors by role, by block or each (None), then the budget."""
    show_tensors(report.tensors, group, explain=explain)
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
        expected = ""
        if report.refined is not None:
            expected = f" ({report.refined.rounded_kl:.5f} before --refine)"
        elif report.predicted_kl is not None:
            expected = f" (predicted {report.predicted_kl:.5f})"
        out.print(
            f"KL to the float model {report.measured_kl:.5f} nats per token on held-out calibration "
            f"tokens{expected}"
        )
    out.print(f"sha256 {report.artifact_sha256}")
    if report.artifact:
        out.print(f"wrote {report.artifact}")


def show_inspect(
    report: InspectReport,
    group: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    explain: bool = False,
) -> None:
    """A row per tensor or per group, then the streams."""
    show_notes(report.notes)
    show_tensors(report.tensors, group, sort, columns, explain)
    if report.errors is not None:
        out.print(f"errors against the float weights: {report.errors}")
    out.print(f"{report.parameters:,} parameters, {report.bytes:,} bytes, sha256 {report.sha256}")
    out.print(f"family {report.family}: " + ", ".join(f"{k}={v}" for k, v in report.config.items()))
    show_assumed(report.assumed)
    if report.streams:
        out.print("streams: " + ", ".join(f"{k} {v:,}" for k, v in report.streams.items()))


def read_group(text: str, each: str) -> str | None:
    """How rows are grouped, as people say it; `each` stands for not at all. Raises UsageError."""
    if text not in (*GROUPINGS, each):
        raise UsageError(f"no table by {text!r}", f"choose from {', '.join((*GROUPINGS, each))}")
    return None if text == each else text


def check_table(group: str | None, sort: str | None, columns: Sequence[str] | None) -> None:
    """Raise UsageError for a column to show or to sort by that the table does not have."""
    if sort is not None and sort not in SORTS:
        raise UsageError(f"nothing to sort by called {sort!r}", f"sort by {', '.join(SORTS)}")
    known = [n for n in COLUMNS if n in _FIELDS[group is not None]]
    for name in columns or ():
        if name not in known:
            raise UsageError(f"there is no column {name!r} here", f"columns: {', '.join(known)}")


# Columns of tensors, and of groups.
_FIELDS = (
    frozenset(COLUMNS) - {"tensors", "params"},
    frozenset((*GROUPINGS, *GROUP_COLUMNS, "predicted_kl")),
)


def show_tensors(
    tensors: Sequence[TensorReport],
    group: str | None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    explain: bool = False,
) -> None:
    """Tensors as a table, each or in groups; what lost most is marked with "!"."""
    rows: Sequence[Any] = tensors if group is None else grouped(tensors, group)
    names = columns or (TENSOR_COLUMNS if group is None else (group, *GROUP_COLUMNS))
    chosen = [COLUMNS[n] for n in names]
    if columns is None:  # a column without any figure says nothing
        chosen = [c for c in chosen if any(c.text(r) != "-" for r in rows) or not rows]
    marked = worst(tensors) if group is None else frozenset()
    limit = out.width - (1 + _GAP if marked else 0) if out.is_terminal else None
    shown, widths, left_out = _fitting(chosen, rows, limit)
    out.print(_table(shown, widths, ordered(rows, sort), marked))
    of_worst = [_OF_WORST[c.name] for c in shown if c.name in _OF_WORST]
    if group is not None and of_worst:
        out.print(f"{' and '.join(of_worst)}: the worst tensor of the {group}.")
    if marked:
        by = "KL" if any(t.kl_share for t in tensors) else "rel_err"
        out.print(f"! the {min(WORST, len(marked))} tensors that lost most, by {by}.")
    if left_out:
        names_out = ", ".join(c.header for c in left_out)
        out.print(f"left out, as the terminal has {out.width} columns: {names_out}")
    if explain:
        _explain([c for c in COLUMNS.values() if c.name in _FIELDS[group is not None]])


def _explain(columns: Sequence[Column]) -> None:
    """A line per column, shown or not: its header, its name for --columns, and what it means."""
    rows = [("column", "name", "meaning"), *((c.header, c.name, c.explain) for c in columns)]
    header, name = (max(len(r[i]) for r in rows) for i in (0, 1))
    for r in rows:
        out.print(f"{r[0]:<{header}}  {r[1]:<{name}}  {r[2]}")


def _table(
    columns: Sequence[Column],
    widths: Mapping[str, int],
    rows: Sequence[Any],
    marked: Collection[str],
) -> Table:
    table = Table(box=None, pad_edge=False)
    if marked:
        table.add_column("", width=1)
    for c in columns:
        left = "left" if c.left else "right"
        table.add_column(c.header, justify=left, no_wrap=True, width=widths[c.name])
    # Off a terminal a table is as wide as it needs to be.
    table.width = sum(widths.values()) + _GAP * (len(widths) - 1) + (1 + _GAP if marked else 0)
    for row in rows:
        stands_out = bool(marked) and row.name in marked
        cells = [_shortened(c.text(row), widths[c.name]) for c in columns]
        mark = ["!" if stands_out else ""] if marked else []
        table.add_row(*mark, *cells, style="bold red" if stands_out else None)
    return table


def _fitting(
    columns: Sequence[Column], rows: Sequence[Any], limit: int | None
) -> tuple[list[Column], dict[str, int], list[Column]]:
    """The columns that fit into `limit` characters, their widths, and the columns left out.

    The first column always stays, and of the others the most important that fit. The names of tensors
    are shortened before any column is left out.
    """
    wide = {c.name: max([len(c.header), *(len(c.text(r)) for r in rows)]) for c in columns}
    least = {n: min(w, _SHORT_NAME) if n == "name" else w for n, w in wide.items()}
    shown: list[Column] = []
    for c in (columns[0], *sorted(columns[1:], key=lambda c: -c.importance)):
        if limit is None or not shown or _width([*shown, c], least) <= limit:
            shown.append(c)
    shown = [c for c in columns if c in shown]
    widths = {c.name: wide[c.name] for c in shown}
    if limit is not None and "name" in widths:
        spare = limit - _width(shown, least)
        widths["name"] = min(wide["name"], max(least["name"] + spare, len("tensor")))
    return shown, widths, [c for c in columns if c not in shown]


def _width(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    return sum(widths[c.name] for c in columns) + _GAP * (len(columns) - 1)


def _shortened(text: str, width: int) -> str:
    """The text in `width` characters: what tells names apart is at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]
