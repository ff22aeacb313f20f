"""The documents a run leaves behind: BuildReport and EvalReport, as JSON with a schema version."""

from dataclasses import dataclass, field
from typing import Any, Literal

from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.measure.tensors import TensorReport


@dataclass(frozen=True)
class InputFile:
    """A file that a build read besides its checkpoint.

    Attributes:
        use: "calibration", "tokenizer", "code" or "model" (the Python file of `--model`).
        path: as it was given; a glob's files each.
        bytes: its size.
        sha256: of its bytes.
    """

    use: str
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TextLoss:
    """What an artifact loses on one text, nats per token, with standard errors over its sequences.

    Attributes:
        text: "held out" (calibration tokens that were kept back) or "own" (the model wrote it).
        sequences, length: how many of how many tokens.
        kl: KL(float || artifact).
        kl_error: its standard error; 0 for one sequence, likewise below.
        ce_rise: by how much the cross entropy of the text's tokens rises. Other than a KL it may be
            negative, and scatters more from build to build.
        ce_rise_error: its standard error.
    """

    text: Literal["held out", "own"]
    sequences: int
    length: int
    kl: float
    kl_error: float
    ce_rise: float
    ce_rise_error: float


@dataclass(frozen=True)
class Refinement:
    """What `--refine` did; KL in nats per token on held-out calibration tokens.

    Attributes:
        tokens: trained on.
        written: how many of them the model wrote itself, beyond calibration tokens.
        rounded_bytes: of the artifact without training, within the same budget or target.
        rounded_kl: of that artifact.
        kl: of the trained artifact.
        changed: share of codes that training and the last rounding moved.
        octaves: how much coarser steps are than those that the search ended with: log2 of the dials.
        on: what was trained for: "kl", or "labels" (the cross entropy of training text, too).
        rounded_losses: of the artifact without training, on the texts of the report's `losses`.
    """

    tokens: int
    written: int
    rounded_bytes: int
    rounded_kl: float
    kl: float
    changed: float
    octaves: float
    on: Literal["kl", "labels"] = "kl"
    rounded_losses: list[TextLoss] = field(default_factory=list)


@dataclass(frozen=True)
class SequenceReport:
    """What rounding in sequence did behind the search (`search.in_sequence` of the recipe).

    Attributes:
        tokens: of text that layers were fitted on.
        at_once_bytes: of the artifact as the search ended, within the same target, or within the same
            budget and up to a percent below it.
        at_once_kl: of that artifact, nats per token on held-out calibration tokens.
        kl: of the artifact rounded in sequence, likewise.
    """

    tokens: int
    at_once_bytes: int
    at_once_kl: float
    kl: float


@dataclass(frozen=True)
class FrontierPoint:
    """A size that the same recipe could have.

    Attributes:
        bytes: of the artifact.
        predicted_kl: the KL to expect of it, nats per token.
    """

    bytes: int
    predicted_kl: float


@dataclass(frozen=True)
class BuildReport:
    """What `golfpack build` did. Bytes are exact; KL is in nats per token.

    The bytes of all tensors and `fixed_bytes` add up to `artifact_bytes`; with `code_bytes`, that is
    what counts against the budget.

    Attributes:
        family: the model family it was read as.
        budget_bytes, headroom_bytes: None when a target KL ruled instead.
        code_bytes: how much of the budget is for code that ships too.
        artifact: path of the file; None for a dry run.
        artifact_bytes: its size.
        artifact_sha256: of its bytes.
        fixed_bytes: header, manifest, digests, tokenizer: what is not weights.
        tokenizer_bytes: of the tokenizer inside, as stored; 0 without.
        bits_per_weight: 8 artifact_bytes / parameters.
        dial: the one number behind all steps; 0 where every weight is kept exactly.
        trace: [dial, artifact bytes] of every round of the budget search.
        calibration: source, number of tokens and sha256 of the tokens; None without.
        predicted_kl: the quadratic model's, corrected by a probe at another rate; None without
            gradients.
        measured_kl: KL(float || artifact) on held-out calibration tokens; None without them.
        measured_bpb: the same in bits per byte; None without a tokenizer.
        notes: what was done to the checkpoint's tensors when they were read, and what is worth knowing.
        losses: what it loses on held-out calibration tokens and on text of the model's own; none without
            calibration tokens. What a class of `--model` writes would take long, and is left out.
        seconds: wall time per stage.
        allocation: what mixed precision chose among (`packer.state.Allocation`), or None.
        pruning: what pruning passes did (`packer.state.Pruning`).
        codes: how each stream of codes is coded.
        tensors: a row each, in stored order.
        refined: what `--refine` did, or None; `predicted_kl` is then None: the quadratic model knows
            rounding errors, and those of trained codes are none.
        in_sequence: what rounding in sequence did, or None; `predicted_kl` is then None, as above.
        plan: the plan file that was replayed, if any.
        kl_ratio: measured over quadratic KL at the probe: the tensors' predicted_kl times this add up
            to `predicted_kl`. None without gradients.
        frontier: what the same recipe would give at other sizes, smallest first; the build itself is
            one of the points. Modelled, not built; none without gradients.
        options: what was asked for, as `golfpack build --from` reads it again.
        passes: of the recipe, with every option.
        search: options of its search for a dial.
        calibrates: what the recipe asks of calibration: "none", "inputs" or "gradients".
        inputs: every file that was read besides the checkpoint.
        status: "built".
        device: where calibration, rounding and the KL were worked out.
        peak_memory_bytes: torch's on CUDA, else the process's largest resident set; 0 where not known.
    """

    checkpoint: str
    checkpoint_sha256: str
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    recipe: str
    settings: list[str]
    seed: int
    parameters: int
    budget_bytes: int | None
    code_bytes: int
    artifact: str | None
    artifact_bytes: int
    artifact_sha256: str
    headroom_bytes: int | None
    fixed_bytes: int
    bits_per_weight: float
    dial: float
    trace: list[list[float]]
    calibration: dict[str, Any] | None
    predicted_kl: float | None
    measured_kl: float | None
    measured_bpb: float | None
    notes: list[str]
    warnings: list[str]
    seconds: dict[str, float]
    allocation: dict[str, Any] | None
    pruning: list[dict[str, Any]]
    codes: list[dict[str, Any]]
    tensors: list[TensorReport]
    plan: str | None = None
    refined: Refinement | None = None
    in_sequence: SequenceReport | None = None
    kl_ratio: float | None = None
    losses: list[TextLoss] = field(default_factory=list)
    frontier: list[FrontierPoint] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    passes: list[dict[str, Any]] = field(default_factory=list)
    search: dict[str, Any] = field(default_factory=dict)
    calibrates: str = "none"
    inputs: list[InputFile] = field(default_factory=list)
    status: Literal["built"] = "built"
    argv: list[str] = field(default_factory=list)
    device: str = "cpu"
    peak_memory_bytes: int = 0
    tokenizer_bytes: int = 0
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class FailedBuild:
    """What is known of a build that ended in an error, for NAME.failed.report.json.

    Attributes:
        error: what went wrong.
        hint: what to do next, if anything is known to help.
        exit_code: what the process returned.
        checkpoint_sha256: None where a budget was refused before the checkpoint was read.
        family: the model family it was read as; None as above.
        budget_bytes: None where a target or `--lossless` ruled, or the budget could not be read.
        code_bytes: how much of the budget is for code that ships too.
        shortfall: bytes by which the coarsest steps exceed the budget, where that is the error.
        calibration: as in a BuildReport; None where it had not come to that.
        warnings: up to the error.
        seconds: wall time per finished stage.
        options, passes, search, calibrates, inputs: as in a BuildReport; `golfpack build --from` takes
            them.
        status: "failed".
    """

    error: str
    hint: str | None
    exit_code: int
    checkpoint: str
    checkpoint_sha256: str | None
    family: str | None
    config: dict[str, Any]
    assumed: dict[str, Any]
    recipe: str | None
    parameters: int | None
    budget_bytes: int | None
    code_bytes: int | None
    shortfall: int | None
    calibration: dict[str, Any] | None
    notes: list[str]
    warnings: list[str]
    seconds: dict[str, float]
    options: dict[str, Any]
    passes: list[dict[str, Any]]
    calibrates: str
    inputs: list[InputFile]
    search: dict[str, Any] = field(default_factory=dict)
    status: Literal["failed"] = "failed"
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
