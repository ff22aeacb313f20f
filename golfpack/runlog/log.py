"""What a training log says, whichever of the known systems wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Phases of a step in the order they are shown, by the name readers give them.
PHASES = {
    "forward": "Forward",
    "backward": "Backward",
    "optimiser": "Optimizer",
    "grad_norm": "Grad Norm",
    "flush": "GPU Flush",
    "data": "Data Loading",
    "other": "Other",
}


@dataclass(frozen=True)
class LogStep:
    """One record of a step. None: the log does not say; NaN: it says that there was no number.

    Attributes:
        loss: of the step's own batch, nats per token.
        grad_norm: global gradient norm BEFORE clipping. Norms after it never get here.
        phases: milliseconds of each phase, keys of `PHASES`.
    """

    step: int
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    step_ms: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A validation at a step, nats per token; the training loss as logged beside it."""

    step: int
    train_loss: float | None
    val_loss: float


@dataclass(frozen=True)
class Sample:
    """Text the model wrote at a step. `prompt` is empty for the start of a document."""

    step: int
    prompt: str
    text: str
    settings: str


@dataclass(frozen=True)
class LogError:
    """Something the log says went wrong, such as an analysis that failed.

    Attributes:
        step: when.
        kind: of record that says so; "training" where the run ended of it.
        message: what the log says.
    """

    step: int
    kind: str
    message: str


@dataclass(frozen=True)
class RunLog:
    """A whole run.

    Attributes:
        system: which program wrote the log: golfpack, bottleneck or alpha.
        log: name of the log file within the run's folder.
        created, updated: ISO 8601, as logged; None where the log has no such time.
        seconds: time the run took, as far as the log tells.
        family: of golfpack's model; None in logs of other systems.
        size, exp: preset names of a bottleneck run.
        model, args: configuration of the model and of the training, as logged.
        planned_steps: None where the budget was not in steps.
        interval: steps between records, as configured; None where unknown.
        finished: the log says that the run came to its end.
        checkpoints: steps at which one was saved.
        resumed: steps from which the run was taken up again.
        files_line: what a Run Summary says of the files, in place of those that are there.
    """

    system: str
    log: str
    run_id: str
    domain: str | None = None
    created: str | None = None
    updated: str | None = None
    seconds: float | None = None
    out_dir: str = ""
    device: str = ""
    command: tuple[str, ...] = ()
    family: str | None = None
    size: str | None = None
    exp: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    planned_steps: int | None = None
    interval: int | None = None
    finished: bool = False
    steps: tuple[LogStep, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[int, ...] = ()
    resumed: tuple[int, ...] = ()
    errors: tuple[LogError, ...] = ()
    infrastructure: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    files_line: str | None = None
    warnings: tuple[str, ...] = ()
