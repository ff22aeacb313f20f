"""What an artifact loses on text that it was not made with, for the report."""

from collections.abc import Mapping
from math import sqrt
from typing import Literal

import numpy as np

from golfpack.base.progress import Notify, silent
from golfpack.build.prepare import Prepared
from golfpack.build.report import TextLoss
from golfpack.packer.format.tensors import PackedTensor

# Text of the model's own to measure on. Short, as every token of a sequence is a call of the model:
# of 512 tokens each, so much text would take a small model a tenth of its build.
OWN_COUNT, OWN_LENGTH = 32, 96
OWN_TEMPERATURE = 1.0


def measure_losses(
    prepared: Prepared, tensors: Mapping[str, PackedTensor], notify: Notify = silent
) -> tuple[TextLoss, ...]:
    """On held-out calibration tokens and, where the model writes quickly, on text of its own."""
    assert prepared.held_out is not None
    texts: list[tuple[Literal["held out", "own"], np.ndarray]] = [
        ("held out", prepared.held_out.sequences)
    ]
    if prepared.writes_quickly:
        texts.append(("own", _own_text(prepared, notify)))
    return tuple(
        text_loss(name, prepared.losses(tensors, text, notify), text.shape[1])
        for name, text in texts
    )


def text_loss(text: Literal["held out", "own"], losses: np.ndarray, length: int) -> TextLoss:
    """A row of the report from `eval.divergence.text_losses` of sequences of `length` tokens."""
    count, targets = len(losses), length - 1
    kl, rise = losses.sum(0) / (count * length, count * targets)
    return TextLoss(
        text, count, length, float(kl), _error(losses[:, 0] / length), float(rise),
        _error(losses[:, 1] / targets),
    )  # fmt: skip


def _error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    return 0.0 if len(values) < 2 else float(values.std(ddof=1)) / sqrt(len(values))


def _own_text(prepared: Prepared, notify: Notify) -> np.ndarray:
    # Another seed than calibration (seed) and training (seed + 1) have.
    return prepared.written_text(
        (OWN_COUNT, prepared.fitting_length(OWN_LENGTH)), temperature=OWN_TEMPERATURE,
        seed=prepared.seed + 2, purpose="measuring", notify=notify,
    ).sequences  # fmt: skip
