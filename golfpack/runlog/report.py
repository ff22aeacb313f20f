"""The document of `golfpack runreport`: everything its two markdown forms say, and no more."""

from dataclasses import dataclass, field
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.runlog.figures import Coverage, GradientNorms, LossRange, Timing
from golfpack.runlog.log import LogError


@dataclass(frozen=True)
class StepRow:
    """One record of a step, as tables show it; None for what the log does not say.

    Attributes:
        step: steps taken, this one included.
        loss: of the step's own batch, nats per token.
        val_loss: validation loss at that step, nats per token.
        grad_norm: global gradient norm before clipping.
        lr: learning rate.
        tokens_per_second: training tokens per second of that step.
        step_ms: milliseconds of the step.
    """

    step: int
    loss: float | None
    val_loss: float | None
    grad_norm: float | None
    lr: float | None
    tokens_per_second: float | None
    step_ms: float | None


@dataclass(frozen=True)
class EvaluationRow:
    """A validation, nats per token; None for what is no finite number.

    Attributes:
        step: steps taken.
        train_loss: training loss logged beside it.
        val_loss: validation loss.
        gap: val_loss - train_loss.
    """

    step: int
    train_loss: float | None
    val_loss: float | None
    gap: float | None


@dataclass(frozen=True)
class SampleRow:
    """Text the model wrote at a step.

    Attributes:
        step: steps taken.
        loss: of the step, nats per token; None where it has no record.
        prompt: what the model went on from; empty for the start of a document.
        text: what it wrote.
        settings: how it was sampled.
    """

    step: int
    loss: float | None
    prompt: str
    text: str
    settings: str


@dataclass(frozen=True)
class KvMemory:
    """Bytes of keys and values of one sequence; see `report.kv_cache`.

    Attributes:
        context: tokens of the model's own context.
        baseline_bytes: standard attention of the same depth and width in fp16, at that context.
        bytes: this run's attention and cache formats, at that context.
        ratio: baseline_bytes / bytes.
        long_context: 128,000 tokens.
        long_bytes: this run's attention and cache formats, at the long context.
        formats: format of each cached tensor.
    """

    context: int
    baseline_bytes: int
    bytes: int
    ratio: float
    long_context: int
    long_bytes: int
    formats: dict[str, str]


@dataclass(frozen=True)
class RunReport:
    """What `golfpack runreport` found in a run's folder. Losses are in nats per token.

    Attributes:
        run_dir: the folder, as it was given.
        system: which program wrote the log: golfpack, bottleneck or alpha.
        log: name of the log file.
        run_id: the run's own id, or the folder's name.
        domain: what an alpha run was trained for.
        status: "completed", "started", "stopped at step N" or "failed at step N: why".
        created, updated: first and last time in the log, ISO 8601.
        seconds: how long the run took, as far as the log tells.
        step_seconds: sum of the records' step times.
        out_dir: the folder, as the run itself knew it.
        device: what it was computed on, as logged.
        command: argv of the run.
        family: of golfpack's model; None of other systems, and in logs of before there were several.
        size, exp: preset names of a bottleneck run.
        model: configuration of the model, as logged.
        args: configuration of the training, as logged.
        parameters: number of weights; None where neither log nor configuration tell.
        planned_steps: None where the budget was not in steps.
        last_step: the last that the log mentions; None where it mentions none.
        coverage: which steps have records.
        final_loss: training loss of the last step.
        min_loss: lowest training loss of a record.
        best_val_loss, best_val_step: lowest validation loss, and the step it was measured at.
        mean_step_ms: mean milliseconds of a record's step.
        mean_tokens_per_second: mean over the records.
        ranges: training losses by ranges of steps.
        milestones: records of early and of evenly spaced steps.
        final_steps: the last records.
        evaluations: every validation.
        gradients: of the norms before clipping; None where the log has none.
        timing: where a step's time goes; None where the log has no breakdown.
        samples: every sampled text.
        checkpoints: steps at which one was saved.
        resumed: steps from which the run was taken up again.
        files: bytes of each file in the folder.
        files_line: what a Run Summary says of the files in place of `files`, or None.
        infrastructure: platform, device, memory and versions, as logged.
        data: what the log says of the training tokens.
        kv_cache: None where the configuration does not tell what is cached.
        errors: what the log says went wrong.
        warnings: what the report's reader should know; `--strict` makes them errors.
        notes: prose from `--notes`, by section.
        versions: of what made the report.
    """

    run_dir: str
    system: str
    log: str
    run_id: str
    domain: str | None
    status: str
    created: str | None
    updated: str | None
    seconds: float | None
    step_seconds: float | None
    out_dir: str
    device: str
    command: list[str]
    family: str | None
    size: str | None
    exp: str | None
    model: dict[str, Any]
    args: dict[str, Any]
    parameters: int | None
    planned_steps: int | None
    last_step: int | None
    coverage: Coverage
    final_loss: float | None
    min_loss: float | None
    best_val_loss: float | None
    best_val_step: int | None
    mean_step_ms: float | None
    mean_tokens_per_second: float | None
    ranges: list[LossRange]
    milestones: list[StepRow]
    final_steps: list[StepRow]
    evaluations: list[EvaluationRow]
    gradients: GradientNorms | None
    timing: Timing | None
    samples: list[SampleRow]
    checkpoints: list[int]
    resumed: list[int]
    files: dict[str, int]
    files_line: str | None
    infrastructure: dict[str, str]
    data: dict[str, str]
    kv_cache: KvMemory | None
    errors: list[LogError]
    warnings: list[str]
    notes: dict[str, str]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
