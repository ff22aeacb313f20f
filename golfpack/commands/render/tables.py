"""Tables that fit a terminal: which columns stay, how wide they are, and what is left out."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from golfpack.commands.render.escape import escaped
from golfpack.measure.columns import Column

if TYPE_CHECKING:
    from rich.table import Table

# Between columns.
GAP = 2
# A name is shortened to this before any column of figures is left out.
_SHORT_NAME = 24


def plain_table(columns: Sequence[str] = (), left: Collection[str] = ()) -> "Table":
    """An empty table: those of its columns that are `left` hold text, the others figures.

    Without columns it has no head, and holds text.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(columns))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def fitting(
    columns: Sequence[Column], rows: Sequence[Any], limit: int | None
) -> tuple[list[Column], dict[str, int], list[Column]]:
    """The columns that fit into `limit` characters, their widths, and the columns left out.

    The first column always stays, and of the others the most important that fit. The names of tensors
    are shortened before any column is left out.
    """
    wide = {c.name: max([len(c.header), *(len(_cell(c, r)) for r in rows)]) for c in columns}
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


def table_of(
    columns: Sequence[Column],
    widths: Mapping[str, int],
    rows: Sequence[Any],
    marked: Collection[str] = (),
) -> "Table":
    """The rows in these columns; rows whose name is `marked` stand out."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    if marked:
        table.add_column("", width=1)
    for c in columns:
        left = "left" if c.left else "right"
        table.add_column(c.header, justify=left, no_wrap=True, width=widths[c.name])
    # Off a terminal a table is as wide as it needs to be.
    table.width = sum(widths.values()) + GAP * (len(widths) - 1) + (1 + GAP if marked else 0)
    for row in rows:
        stands_out = bool(marked) and row.name in marked
        cells = [_shortened(_cell(c, row), widths[c.name]) for c in columns]
        mark = ["!" if stands_out else ""] if marked else []
        table.add_row(*mark, *cells, style="bold red" if stands_out else None)
    return table


def left_out_line(columns: Sequence[Column], width: int) -> str:
    """What the user is told of columns that a terminal of `width` has no room for."""
    return f"left out, as the terminal has {width} columns: {', '.join(c.header for c in columns)}"


def _cell(column: Column, row: Any) -> str:
    """As it is printed: what is escaped is longer."""
    return escaped(column.text(row))


def _width(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    return sum(widths[c.name] for c in columns) + GAP * (len(columns) - 1)


def _shortened(text: str, width: int) -> str:
    """The text in `width` characters: what tells names apart is at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]
