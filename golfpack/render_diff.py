"""What `golfpack diff` shows, as tables or as Markdown; it prints through `render.py`."""

import json
import re
from collections.abc import Sequence
from math import inf
from typing import Any

from rich.table import Table

from golfpack.render import data, number, out
from golfpack.report.diff import Change, DiffReport, DiffSide, TensorDiff, TensorSide

_OVERALL = ("what", "a", "b", "change")
_TENSORS = (
    "tensor", "scheme", "bytes a", "bytes b", "change", "rel_err a", "rel_err b", "weights",
    "codes", "steps",
)  # fmt: skip
# What a narrow terminal has room for; --json and --md have all of it.
_WIDE, _NARROW = 120, ("tensor", "bytes a", "bytes b", "change", "weights", "codes")
_LEFT = frozenset({"what", "tensor", "scheme", "steps"})
_KEY = (
    "rel_err: to the float weights. weights: |b - a| / |a|. codes: how many are another number. "
    "steps: whether they are others."
)
_LONGEST = 48
# A change of more than this many times the figure is no share of it.
_TENFOLD = 10
_SHA256 = re.compile("[0-9a-f]{64}")


def show_diff(report: DiffReport) -> None:
    """The two files, what changed overall, and a row per tensor that did."""
    for letter, side in (("a", report.a), ("b", report.b)):
        out.print(f"{letter}  {_side(side)}")
    if report.same:
        out.print(_verdict(report))
        return
    if report.changes:
        out.print(_table(_OVERALL, [_change(c) for c in report.changes]))
    if report.tensors:
        out.print(_table(_TENSORS, [_tensor(t) for t in report.tensors]))
        out.print(_KEY)
    out.print(_verdict(report))


def show_markdown(report: DiffReport) -> None:
    """The same as Markdown, for a pull request."""
    lines = [f"- **{letter}**: {_side(s)}" for letter, s in (("a", report.a), ("b", report.b))]
    if report.changes:
        lines += ["", *_markdown(_OVERALL, [_change(c) for c in report.changes])]
    lines += ["", _verdict(report)]
    if report.tensors:
        lines += ["", "<details><summary>Tensor by tensor</summary>", ""]
        lines += _markdown(_TENSORS, [_tensor(t) for t in report.tensors])
        lines += ["", _KEY, "", "</details>"]
    data("\n".join(lines))


def _side(side: DiffSide) -> str:
    told = "" if side.kind != "artifact" or side.report else ", no report of it beside it"
    return f"{side.path}: {side.kind}, {side.bytes:,} bytes, sha256 {side.sha256[:16]}{told}"


def _verdict(report: DiffReport) -> str:
    total = len(report.tensors) + report.unchanged
    if report.same:
        return f"no difference, in all {total} tensors"
    return f"{len(report.tensors)} of {total} tensors differ"


def _change(c: Change) -> list[str]:
    return [c.what, _value(c.a), _value(c.b), _delta(c.a, c.b)]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return _short(str(value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.5g}"
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    if _SHA256.fullmatch(text):
        return text[:16]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _delta(a: Any, b: Any) -> str:
    """A change of a figure, with its share of the first."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b)):
        return ""
    whole = isinstance(a, int) and isinstance(b, int)
    change = f"{b - a:+,}" if whole else f"{b - a:+.5g}"
    share = (b - a) / abs(a) if a else inf
    return f"{change} ({share:+.1%})" if abs(share) < _TENFOLD else change


def _tensor(t: TensorDiff) -> list[str]:
    a, b = t.a, t.b
    steps = "" if t.steps is None else ("others" if t.steps else "same")
    return [
        t.name, _arrow(_scheme(a, b), _scheme(b, a)), _bytes(a), _bytes(b), _gained(a, b),
        _error(a), _error(b), number(t.weights, ".4f"), number(t.codes, ".1%"), steps,
    ]  # fmt: skip


def _scheme(own: TensorSide | None, other: TensorSide | None) -> str:
    """The scheme of a side, with its shape where that is not the other's."""
    if own is None:
        return "none"
    if other is None or own.shape == other.shape:
        return own.scheme
    return f"{own.scheme} {'x'.join(map(str, own.shape))}"


def _arrow(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def _bytes(side: TensorSide | None) -> str:
    return "-" if side is None else f"{side.bytes:,}"


def _gained(a: TensorSide | None, b: TensorSide | None) -> str:
    return f"{(0 if b is None else b.bytes) - (0 if a is None else a.bytes):+,}"


def _error(side: TensorSide | None) -> str:
    return number(None if side is None else side.rel_err, ".4f")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = _NARROW if columns is _TENSORS and out.width < _WIDE else columns
    table = Table(box=None, pad_edge=False)
    for column in shown:
        table.add_column(column, justify="left" if column in _LEFT else "right")
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        table.add_row(*(cells[column] for column in shown))
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    dashes = ["---" if column in _LEFT else "---:" for column in columns]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in ([*columns], dashes, *cells)]
