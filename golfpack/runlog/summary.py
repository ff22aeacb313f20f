"""The Run Summary: what a run was started with, what came of it, and its KV-cache memory.

The form is that of TheApeMachine/decoupled-bottleneck-attention, to the byte. A summary without results
is the one that form has before the first validation.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from golfpack.errors import UsageError
from golfpack.kv.layout import human_bytes
from golfpack.runlog.make import kv_memory
from golfpack.runlog.report import KvMemory, RunReport

TIMES = "\u00d7"
# The originals call the perplexity of losses beyond this infinite.
LARGEST_LOSS = 20.0


@dataclass(frozen=True)
class Summary:
    """All that a Run Summary depends on.

    Attributes:
        created: time as it is to appear.
        command: argv of the run.
        size, exp: preset names, left out where None.
        model, args: configurations, written as JSON with sorted keys.
        last_step, best_val: results (nats per token); None for a run without any.
        files: what to say of the files, in markdown.
        final_loss: the last training loss, for results of a run that was never validated; None where
            such a run has no results, as in the originals.
    """

    created: str
    out_dir: str
    device: str
    command: Sequence[str]
    size: str | None
    exp: str | None
    model: Mapping[str, Any]
    args: Mapping[str, Any]
    last_step: int | None
    best_val: float | None
    files: str
    final_loss: float | None = None


def summary_of(report: RunReport) -> Summary:
    """The summary of a run: dated by its end once there are results, as the original's are."""
    has_results = report.best_val_loss is not None
    created = report.updated if has_results and report.system == "bottleneck" else report.created
    files = report.files_line or ", ".join(f"`{name}`" for name in report.files)
    return Summary(
        created=created or "unknown",
        out_dir=report.out_dir,
        device=report.device,
        command=report.command,
        size=report.size,
        exp=report.exp,
        model=report.model,
        args=report.args,
        last_step=report.last_step,
        best_val=report.best_val_loss,
        files=files,
        final_loss=None if report.system == "bottleneck" else report.final_loss,
    )


def summary_markdown(summary: Summary) -> str:
    """The document, ending in an empty line.

    Raises:
        UsageError: there are results, but the configuration does not tell what is cached.
    """
    lines = ["# Run Summary", "", *_head(summary), ""]
    lines += _json_section("Model Config", summary.model)
    lines += _json_section("Training Args", summary.args)
    if loss := _loss(summary):
        lines += ["## Results", "", f"- Last step: `{summary.last_step}`", loss]
        lines += [f"- Files: {summary.files}", ""]
        lines += _cache(kv_memory(summary.model, summary.args))
    return "\n".join([*lines, ""])


def _head(summary: Summary) -> list[str]:
    rows = {
        "Created": summary.created,
        "Out dir": summary.out_dir,
        "Device": summary.device,
        "Command": shlex.join(summary.command),
        "Size preset": summary.size,
        "Experiment": summary.exp,
    }
    return [f"- {name}: `{value}`" for name, value in rows.items() if value is not None]


def _json_section(title: str, values: Mapping[str, Any]) -> list[str]:
    text = json.dumps(dict(values), indent=2, sort_keys=True)
    return [f"## {title}", "", "```json", text, "```", ""]


def _loss(summary: Summary) -> str | None:
    """The line that says how good the run got; None for a run without results."""
    if summary.last_step is None:
        return None
    if summary.best_val is not None:
        return _loss_line("Best val loss", summary.best_val)
    if summary.final_loss is not None:
        return _loss_line("Final training loss", summary.final_loss)
    return None


def _loss_line(name: str, loss: float) -> str:
    perplexity = math.exp(loss) if loss < LARGEST_LOSS else math.inf
    return f"- {name}: `{loss:.6f}` (ppl `{perplexity:.2f}`)"


def _cache(memory: KvMemory) -> list[str]:
    at = f"@ ctx={memory.context}"
    return [
        "## KV Cache Memory (batch=1)",
        "",
        f"- Baseline fp16 (standard attn) {at}: `{human_bytes(memory.baseline_bytes)}`",
        f"- This run policy {at}: `{human_bytes(memory.bytes)}`",
        f"- Compression vs fp16 baseline: `{memory.ratio:.2f}{TIMES}`",
        f"- This run policy @ {memory.long_context // 1000}k: `{human_bytes(memory.long_bytes)}`",
        "",
    ]


def check_summary(report: RunReport) -> None:
    """Raise UsageError where a report has too little for a summary."""
    if not report.model or not report.args:
        raise UsageError(
            f"{report.log} does not tell the run's model and arguments, so it has no Run Summary",
            "use --format report",
        )
