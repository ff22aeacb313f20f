"""Builds and files as tables, tensor by tensor; they print through `render`."""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from golfpack.build.report import BuildReport
from golfpack.commands.render.console import (
    out,
    show_assumed,
    show_notes,
)
from golfpack.commands.render.tables import (
    GAP,
    fitting,
    left_out_line,
    table_of,
)
from golfpack.errors import UsageError
from golfpack.inspect.inspect_report import InspectReport
from golfpack.measure.columns import (
    COLUMNS,
    GROUP_COLUMNS,
    GROUPINGS,
    OF_THE_WORST,
    TENSOR_COLUMNS,
    WORST,
    Column,
    column_names,
    grouped,
    ordered,
    worst,
)
from golfpack.measure.tensors import TensorReport
from golfpack.models import find_family


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
    out.print(f"family {report.family}: {_config(report)}")
    show_assumed(report.assumed)
    if report.streams:
        out.print("streams: " + ", ".join(f"{k} {v:,}" for k, v in report.streams.items()))


def _config(report: InspectReport) -> str:
    """What the config says that the family's defaults do not."""
    defaults = {f.name: f.default for f in fields(find_family(report.family).config_type)}
    told = [f"{k}={v}" for k, v in report.config.items() if k not in defaults or defaults[k] != v]
    if left := len(report.config) - len(told):
        told.append(f"{left} others at the family's defaults (--json has all)")
    return ", ".join(told)


def read_group(text: str, each: str) -> str | None:
    """How rows are grouped, as people say it; `each` stands for not at all. Raises UsageError."""
    if text not in (*GROUPINGS, each):
        raise UsageError(f"no table by {text!r}", f"choose from {', '.join((*GROUPINGS, each))}")
    return None if text == each else text


def read_table(
    group: str | None, sort: str | None, columns: Sequence[str] | None
) -> tuple[str | None, list[str] | None]:
    """The column to sort by and those to show, each by heading or by its key in the JSON.

    Raises:
        UsageError: a column that the table does not have.
    """
    known = [n for n in COLUMNS if n in _FIELDS[group is not None]]
    # A column named twice, by its heading and its key say, is shown once.
    shown = None if columns is None else list(dict.fromkeys(_column(c, known) for c in columns))
    # Groups are named by what they share.
    by = None if sort is None else _column(sort, [*known, "name"] if group is not None else known)
    return by, shown


def _column(text: str, known: Sequence[str]) -> str:
    """The name of the column meant: names and headings mean it, in capitals or not."""
    names = column_names(known)
    if text.casefold() in names:
        return names[text.casefold()]
    near = difflib.get_close_matches(text.casefold(), names, 1)
    meant = f"did you mean {names[near[0]]!r}? " if near else ""
    raise UsageError(f"there is no column {text!r} here", f"{meant}columns: {', '.join(known)}")


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
    limit = out.width - (1 + GAP if marked else 0) if out.is_terminal else None
    shown, widths, left_out = fitting(chosen, rows, limit)
    out.print(table_of(shown, widths, ordered(rows, sort), marked))
    of_worst = [OF_THE_WORST[c.name] for c in shown if c.name in OF_THE_WORST]
    if group is not None and of_worst:
        out.print(f"{' and '.join(of_worst)}: the worst tensor of the {group}.")
    if marked:
        by = "KL" if any(t.kl_share for t in tensors) else "rel_err"
        out.print(f"! the {min(WORST, len(marked))} tensors that lost most, by {by}.")
    if left_out:
        out.print(left_out_line(left_out, out.width))
    if explain:
        _explain([c for c in COLUMNS.values() if c.name in _FIELDS[group is not None]], group)


def _explain(columns: Sequence[Column], group: str | None) -> None:
    """A line per column, shown or not: its header, its key in the JSON, and what it means."""
    meanings = [
        c.explain + (f"; the {group}'s worst tensor" if group and c.name in OF_THE_WORST else "")
        for c in columns
    ]
    rows = [("column", "name", "meaning")]
    rows += [(c.header, c.name, m) for c, m in zip(columns, meanings, strict=True)]
    header, name = (max(len(r[i]) for r in rows) for i in (0, 1))
    for r in rows:
        out.print(f"{r[0]:<{header}}  {r[1]:<{name}}  {r[2]}")
