"""The table of tensors of `build` and `inspect`: what is in it, and how it is printed."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from golfpack.commands.render.console import out
from golfpack.commands.render.tables import GAP, fitting, left_out_line, table_of
from golfpack.errors import UsageError
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
    oddities,
    ordered,
    worst,
)

if TYPE_CHECKING:
    from golfpack.measure.tensors import TensorReport

# Columns of tensors, and of groups.
_FIELDS = (
    frozenset(COLUMNS) - {"tensors", "params"},
    frozenset((*GROUPINGS, *GROUP_COLUMNS, "predicted_kl")),
)


def read_group(text: str, each: str) -> str | None:
    """How rows are grouped, as people say it; `each` stands for not at all. Raises UsageError."""
    known = (*GROUPINGS, each)
    if text not in known:
        near = _meant(text, {k: k for k in known})
        raise UsageError(f"no table by {text!r}", f"{near}choose from {', '.join(known)}")
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
    shown = None
    if columns is not None:
        shown = list(dict.fromkeys(_column(c, known, group) for c in columns))
        if not shown:
            raise UsageError("no column is named", f"columns: {', '.join(known)}")
    # Groups are named by what they share.
    sortable = [*known, "name"] if group is not None else known
    return None if sort is None else _column(sort, sortable, group), shown


def _column(text: str, known: Sequence[str], group: str | None) -> str:
    """The name of the column meant: names and headings mean it, in capitals or not."""
    names = column_names(known)
    if text.casefold() in names:
        return names[text.casefold()]
    columns = f"columns: {', '.join(known)}"
    if group is not None and text.casefold() in column_names(list(COLUMNS)):
        raise UsageError(
            f"there is no column {text!r} in a table by {group}: its rows are groups of tensors",
            f"{columns}; for this one leave the grouping out",
        )
    raise UsageError(f"there is no column {text!r} here", _meant(text.casefold(), names) + columns)


def _meant(text: str, names: Mapping[str, str]) -> str:
    """What a slip of the hand may have meant, for a hint: names by all that means them."""
    near = difflib.get_close_matches(text, names, 1)
    return f"did you mean {names[near[0]]!r}? " if near else ""


def show_tensors(
    tensors: "Sequence[TensorReport]",
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
    for line in oddities(rows, [c.name for c in shown]):
        out.print(line)
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
