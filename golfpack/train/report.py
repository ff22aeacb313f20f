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
        artifact: what --for ended with; its report lies beside it. None without --for.
        artifact_bytes: of that file.
        kl: its KL to the final model on held-out calibration tokens, nats per token.
    """

    steps: int
    seconds: float
    final_loss: float
    val_loss: float | None
    checkpoint: str
    artifact: str | None = None
    artifact_bytes: int | None = None
    kl: float | None = None
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
