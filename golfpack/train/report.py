"""The document of `golfpack train`."""

from dataclasses import dataclass, field

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class TrainReport:
    """What `golfpack train` came to.

    Attributes:
        steps: optimiser steps taken.
        seconds: wall-clock time, over all resumptions.
        final_loss: moving average of the training loss at the end, nats per token.
        val_loss: validation loss of the final weights, nats per token; None without such tokens.
        checkpoint: the final model, a plain state dict; its configuration lies beside it.
    """

    steps: int
    seconds: float
    final_loss: float
    val_loss: float | None
    checkpoint: str
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
