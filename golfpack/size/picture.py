"""The picture of a ladder: bits per byte over parameters, and what compiling adds over bits."""

import io
from collections.abc import Callable
from importlib.util import find_spec
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.base.files import write_atomically
from golfpack.errors import UsageError
from golfpack.size.fit import Curves
from golfpack.size.report import SizeReport, SizeRow
from golfpack.train.shapes import read_shape

_FLOAT, _ARTIFACT = "0.45", "#1f5fa8"


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def check_plots() -> None:
    """Raise UsageError where no picture could be drawn."""
    if not can_draw():
        raise UsageError(
            "a PNG needs matplotlib, which is not installed",
            "pip install matplotlib, or leave --png out",
        )


def save_png(report: SizeReport, path: Path) -> None:
    """Draw the ladder. Equal reports give an equal picture.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    check_plots()
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    rows = [r for r in report.rows if r.refused is None]
    figure = Figure(figsize=(10.0, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _over_parameters(left, rows, report)
    _over_bits(right, rows, report.curves)
    budget = f"{report.minutes:g} minutes" if report.minutes else f"{report.steps:,} steps"
    figure.suptitle(f"{report.family} in {report.budget}, recipe {report.recipe}, {budget} each")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _over_parameters(axes: Any, rows: list[SizeRow], report: SizeReport) -> None:
    sizes = [r.parameters for r in rows]
    for name, values, spreads, color in (
        ("float", [r.float_bpb for r in rows], [r.float_spread for r in rows], _FLOAT),
        ("artifact", [r.artifact_bpb for r in rows], [r.artifact_spread for r in rows], _ARTIFACT),
    ):
        axes.errorbar(
            sizes, values, [s or 0.0 for s in spreads], fmt="o", color=color, label=name, capsize=3
        )
    for row in rows:
        axes.annotate(
            row.shape, (row.parameters, row.artifact_bpb), xytext=(5, 6),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    if report.curves is not None:
        curves, left = report.curves, report.budget_bytes - report.code_bytes
        plain = [r.parameters for r in _plain(rows)]
        _line(axes, plain, lambda n: curves.float_bpb(log(n)), _FLOAT)
        _line(axes, plain, lambda n: curves.at(round(n), 8 * left / n), _ARTIFACT)
    if report.between is not None:
        at = report.between
        axes.plot([at.parameters], [at.artifact_bpb], "D", color=_ARTIFACT, fillstyle="none")
        axes.annotate(
            at.shape, (at.parameters, at.artifact_bpb), xytext=(5, -12),
            textcoords="offset points", fontsize=8, style="italic",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_title("bits per byte, held out", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _over_bits(axes: Any, rows: list[SizeRow], curves: Curves | None) -> None:
    bits = [r.bits_per_weight or 0.0 for r in rows]
    gaps = [r.gap or 0.0 for r in rows]
    axes.plot(bits, gaps, "o", color=_ARTIFACT)
    if all(g > 0 for g in gaps):
        axes.set_yscale("log")
    if curves is not None:
        plain = [r.bits_per_weight or 0.0 for r in _plain(rows)]
        _line(axes, plain, lambda b: exp(curves.gap(b)), _ARTIFACT)
    axes.set_xlabel("bits per weight")
    axes.set_title("added by compiling, bits per byte", fontsize=9)
    axes.grid(alpha=0.3)


def _plain(rows: list[SizeRow]) -> list[SizeRow]:
    """Those without a table of token pairs, which no curve is about."""
    return [r for r in rows if not read_shape(r.shape).rows]


def _line(
    axes: Any, x: list[int] | list[float], curve: Callable[[float], float], color: str
) -> None:
    points = np.geomspace(min(x), max(x), 100).tolist()
    axes.plot(points, [curve(p) for p in points], "-", color=color, linewidth=1.2)
