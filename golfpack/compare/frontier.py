"""The picture of a sweep: bytes against KL, and against bits per byte where they were measured."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from golfpack.base.files import write_atomically
from golfpack.compare.more import MEGABYTE
from golfpack.compare.report import CompareReport
from golfpack.errors import UsageError

_INK = "#1f5fa8"


def check_plots() -> None:
    """Raise UsageError where no picture could be drawn."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "a PNG needs matplotlib, which is not installed",
            "pip install matplotlib, or leave --png out",
        )


def save_png(report: CompareReport, path: Path) -> None:
    """Draw the frontier. Equal rows give an equal picture.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    check_plots()
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    rows = [r for r in report.rows if r.artifact_bytes is not None]
    sizes = [(r.artifact_bytes or 0) / MEGABYTE for r in rows]
    labels = [r.budget for r in rows]
    losses = [r.quant_gap for r in rows]
    with_bpb = any(loss is not None for loss in losses)
    figure = Figure(figsize=(10.0 if with_bpb else 5.5, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 if with_bpb else 1, squeeze=False)[0]
    kls = [r.kl for r in rows]
    _curve(
        axes[0], sizes, kls, labels, f"KL to the float model, nats per token ({report.kl_source})"
    )
    if all(kl is not None and kl > 0 for kl in kls):
        axes[0].set_yscale("log")
    if with_bpb:
        _curve(axes[1], sizes, losses, labels, "loss, bits per byte")
        axes[1].axhline(0, color="0.6", linewidth=0.8)
    figure.suptitle(f"{Path(report.checkpoint).name}, recipe {', '.join(report.recipes)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _curve(
    axes: Any,
    sizes: Sequence[float],
    values: Sequence[float | None],
    labels: Sequence[str],
    title: str,
) -> None:
    points = [(s, v, t) for s, v, t in zip(sizes, values, labels, strict=True) if v is not None]
    axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", color=_INK)
    for size, value, label in points:
        axes.annotate(label, (size, value), xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.set_xlabel("artifact, MB (1,000,000 bytes)")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.margins(x=0.12, y=0.12)
