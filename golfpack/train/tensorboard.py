"""Scalars of a run for TensorBoard: a listener of the log, so that both say the same."""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.train.checkpoint import Listener

FOLDER = "tensorboard"
# Scalar -> field of a step's record.
_STEP = {
    "loss/train": "loss",
    "loss/val": "val_loss",
    "perf/tok_s": "tokens_per_second",
    "optim/lr": "lr",
    "optim/grad_norm": "grad_norm",
}
_NO_FIGURES = ("type", "step", "error")


def check_tensorboard() -> None:
    """Raise UsageError where TensorBoard's writer is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs tensorboard, which is not installed",
            "pip install '.[tensorboard]', or leave out --tensorboard: train.jsonl has the same figures",
        )


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """What a record of the log says in scalars; {} for most."""
    if line["type"] == "step":
        found = {name: float(line[key]) for name, key in _STEP.items() if key in line}
        found["ppl/train"] = math.exp(min(found["loss/train"], 700.0))
        found["perf/step_ms"] = float(line["timing_ms"]["step"])
        return found
    if line["type"] == "analysis" and "error" not in line:
        return {f"analysis/{k}": float(v) for k, v in line.items() if k not in _NO_FIGURES}
    return {}


@contextmanager
def tensorboard(out: Path) -> Iterator[Listener]:
    """A listener that writes events into `out`/tensorboard.

    A run that is taken up again begins a file of its own, which takes back what was written of the steps
    that come again.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None

    def listen(line: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            first = line["step"] + 1 if line["type"] == "resume" else 0
            writer = SummaryWriter(str(out / FOLDER), purge_step=first)
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, line["step"])
        writer.flush()

    try:
        yield listen
    finally:
        if writer is not None:
            writer.close()
