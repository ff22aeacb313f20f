"""`golfpack train --live`: a run as it goes, in panels at a terminal."""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from golfpack.commands.render.escape import escaped
from golfpack.commands.render.starting import starting

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table

# Losses behind the little curve.
_CURVE = 40
_BARS = "▁▂▃▄▅▆▇█"
_FRAMES = 4  # a second


class Dashboard:
    """Progress and records of a training run; a `Notify`, and a listener of the log.

    Use as a context manager: whatever ends it, the terminal is as it was.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        """`console` stands in for stderr in tests."""
        from rich.console import Console
        from rich.live import Live

        self.console = console or Console(stderr=True, highlight=False)
        self.stages: dict[str, tuple[int, int, str]] = {}
        self.records: dict[str, Mapping[str, Any]] = {}
        self.losses: deque[float] = deque(maxlen=_CURVE)
        self.best = math.inf
        self.began = time.monotonic()
        # No alternate screen: the last frame stays, and a terminal that scrolls keeps its past.
        self.live = Live(
            console=self.console, refresh_per_second=_FRAMES, get_renderable=self.frame,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> "Dashboard":
        starting.over()
        self.live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.live.stop()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        self.stages[stage] = done, total, note

    def listen(self, line: Mapping[str, Any]) -> None:
        """A record of the log."""
        self.records[line["type"]] = line
        if line["type"] == "step":
            self.losses.append(line["loss"])
            if "val_loss" in line:
                self.records["validation"] = line
                self.best = min(self.best, line["val_loss"])

    def frame(self) -> "Group":
        """What is shown now."""
        from rich.columns import Columns
        from rich.console import Group

        panels = [
            _panel("train", self._train()), _panel("perf", self._perf()),
            _panel("memory", self._memory()), _panel("evaluation", self._evaluation()),
        ]  # fmt: skip
        return Group(self._progress(), Columns(panels, equal=True, expand=True))

    def _progress(self) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 1), expand=True)
        stage, (done, total, note) = next(reversed(self.stages.items()), ("starting", (0, 0, "")))
        share = f"{done:,}/{total:,}" if total else ""
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=total or None, completed=done)
        table.add_row(f"{stage} {share}", bar, escaped(note))
        return table

    def _train(self) -> dict[str, str]:
        step = self.records.get("step", {})
        rows = {"step": _whole(step, "step"), "loss": _figure(step, "loss", ".4f")}
        if "loss" in step:
            rows["perplexity"] = f"{math.exp(min(step['loss'], 700.0)):,.2f}"
        rows |= {"rate": _figure(step, "lr", ".3g"), "gradient": _figure(step, "grad_norm", ".3g")}
        rows["tokens"] = _whole(step, "tokens")
        return rows | {"": curve(list(self.losses))}

    def _perf(self) -> dict[str, str]:
        step = self.records.get("step", {})
        timing = step.get("timing_ms", {})
        rows = {"tokens/s": _figure(step, "tokens_per_second", ",.0f")}
        rows |= {name: f"{ms:,.1f} ms" for name, ms in timing.items()}
        return rows | {"time": f"{time.monotonic() - self.began:,.0f} s"}

    def _memory(self) -> dict[str, str]:
        from golfpack.models.device import peak_memory_bytes

        config = self.records.get("meta", {}).get("config", {})
        device = str(config.get("device", "cpu"))
        rows = {"peak": f"{peak_memory_bytes(device) / 2**20:,.0f} MiB", "device": escaped(device)}
        if "meta" in self.records:
            rows["parameters"] = f"{self.records['meta']['parameters']:,}"
        return rows

    def _evaluation(self) -> dict[str, str]:
        found = self.records.get("validation", {})
        rows = {"validation": _figure(found, "val_loss", ".4f"), "at step": _whole(found, "step")}
        if math.isfinite(self.best):
            rows["best"] = f"{self.best:.4f}"
        analysis = self.records.get("analysis", {})
        rows |= {
            label: _figure(analysis, name, ".3f")
            for label, name in (("entropy", "attn_entropy_mean"), ("rank", "attn_erank_mean"))
            if name in analysis
        }
        if "error" in analysis:
            rows["analysis"] = escaped(f"failed: {analysis['error']}")
        if "sample" in self.records:
            rows["sample"] = escaped(self.records["sample"]["text"])[:200].replace("\n", " ")
        return rows


def curve(values: list[float]) -> str:
    """Values as a row of bars between their least and their largest."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) < 2:
        return ""
    low, spread = min(known), (max(known) - min(known)) or 1.0
    return "".join(_BARS[int((len(_BARS) - 1) * (v - low) / spread)] for v in known)


def _panel(title: str, rows: Mapping[str, str]) -> "Panel":
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for name, value in rows.items():
        table.add_row(Text(name, "dim"), Text(value))
    return Panel(table, title=title, title_align="left")


def _figure(record: Mapping[str, Any], name: str, spec: str) -> str:
    return format(record[name], spec) if name in record else "-"


def _whole(record: Mapping[str, Any], name: str) -> str:
    return _figure(record, name, ",")
