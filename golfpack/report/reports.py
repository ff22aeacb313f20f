"""The documents a run leaves behind: BuildReport and EvalReport, as JSON with a schema version."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from golfpack import __version__
from golfpack.data.shards import write_atomically
from golfpack.report.tensors import TensorReport

SCHEMA_VERSION = 1


def versions() -> dict[str, str]:
    """What the figures of a report depend on besides its inputs."""
    return {
        "golfpack": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
    }


@dataclass(frozen=True)
class BuildReport:
    """What `golfpack build` did. Bytes are exact; KL is in nats per token.

    Attributes:
        budget_bytes, headroom_bytes: None when a target KL ruled instead.
        predicted_kl: the quadratic model's, corrected by a probe at another rate; None without
            gradients.
        measured_kl: KL(float || artifact) on held-out calibration tokens; None without them.
        measured_bpb: the same in bits per byte; None without a tokenizer.
        notes: what was renamed, split or dropped when the checkpoint was read.
        trace: [dial, artifact bytes] of every round of the budget search.
        fixed_bytes: header, manifest, digests: what is not weights.
        allocation: what mixed precision chose among (`packer.state.Allocation`), or None.
        pruning: what pruning passes did (`packer.state.Pruning`).
        codes: how each stream of codes is coded.
        plan: the plan file that was replayed, if any.
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
    argv: list[str] = field(default_factory=list)
    device: str = "cpu"
    peak_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class EvalReport:
    """What `golfpack eval` found.

    Attributes:
        model_sha256: of the checkpoint or artifact.
        ttt, options: test-time training by name ("none" without), and every option of the run.
        window: tokens the model reads at most.
        val_loss: nats per target token.
        val_bpb: bits per byte, (sum of nll / ln 2) / scored_bytes.
        targets, scored_tokens: tokens to score, and those scored exactly once.
        bytes_source: "table" (the tokenizer's), or the side-car shards that were counted instead.
        byte_audit: the byte table against decoded text.
        documents: of the stream; one where no BOS occurs.
        round_trip: documents whose tokens were decoded and encoded, and those that came back changed.
        source_round_trip: the same for raw text, when it was given.
        seconds: wall time of scoring and test-time training, all ranks.
        legality: name, passed and measured of each check; None where they were not asked for.
        float_bpb, quant_gap: of the float checkpoint on the same tokens, when one was given;
            quant_gap = val_bpb - float_bpb.
        per_document, per_position: tables, when asked for.
        compiled: the mode of torch.compile, or None.
        peak_memory_bytes: torch's on CUDA (of this rank), else the process's largest resident set; 0
            where not known.
    """

    model: str
    model_sha256: str
    model_bytes: int
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    tokens: str
    tokens_sha256: str
    tokenizer: str
    mode: str
    ttt: str
    window: int
    options: dict[str, Any]
    val_loss: float
    val_bpb: float
    targets: int
    scored_tokens: int
    scored_bytes: int
    bytes_source: str
    byte_audit: dict[str, int]
    documents: int
    round_trip: dict[str, int]
    source_round_trip: dict[str, int] | None
    seconds: float
    tokens_per_second: float
    device: str
    threads: int
    ranks: int
    batch_tokens: int
    compiled: str | None
    legality: list[dict[str, str | bool]] | None
    warnings: list[str]
    float_bpb: float | None = None
    quant_gap: float | None = None
    per_document: list[dict[str, float]] | None = None
    per_position: list[dict[str, float]] | None = None
    argv: list[str] = field(default_factory=list)
    peak_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class StatsReport:
    """Runs of several seeds against a baseline, in both units.

    Attributes:
        nats, bpb: mean, std, baseline, margin, improvement and the two p-values in nats per token and
            in bits per byte.
        margin_nats, margin_bits_per_token, margin_bpb: the improvement the rule asks for; a nat is
            1 / ln 2 bits, and those of a token are spread over its bytes.
        meets_rule: whether the margin is reached, at the level of `significance`.
    """

    runs: list[str]
    val_loss: list[float]
    val_bpb: list[float]
    baseline: str
    bytes_per_token: float
    nats: dict[str, float]
    bpb: dict[str, float]
    margin_nats: float
    margin_bits_per_token: float
    margin_bpb: float
    significance: float
    meets_rule: bool
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class InspectReport:
    """What `golfpack inspect` sees in an artifact or a checkpoint."""

    path: str
    sha256: str
    bytes: int
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    parameters: int
    streams: dict[str, int]
    tensors: Sequence[TensorReport]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class PlanReport:
    """What `golfpack plan` expects, a row per budget; `build --plan` replays it.

    Attributes:
        calibrates: what the recipe asks of calibration: "none", "inputs" or "gradients".
        passes: of the recipe, with every option.
        budget_bytes: the one budget that was asked about; None for none, or several.
        code_bytes: how much of every budget is for code that ships too.
        kl_ratio: measured over predicted KL at the probe; None without gradients.
        tensors: every tensor's scheme; none where several budgets were asked about.
    """

    checkpoint: str
    checkpoint_sha256: str
    recipe: str
    settings: list[str]
    calibrates: str
    passes: list[dict[str, Any]]
    parameters: int
    budget_bytes: int | None
    code_bytes: int
    calibration: dict[str, Any] | None
    kl_ratio: float | None
    rows: list["PlanRow"]
    tensors: list["PlanTensor"]
    time: "PlanTime"
    seconds: float
    assumed: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class PlanRow:
    """One budget: expected bytes, KL (nats per token) and loss in bits per byte (with a tokenizer).

    `budget_bytes` is None for the recipe as it is written, at dial 1; the KL is None where the recipe
    measures no gradients.
    """

    budget_bytes: int | None
    artifact_bytes: int
    bits_per_weight: float
    dial: float
    predicted_kl: float | None
    predicted_bpb: float | None


@dataclass(frozen=True)
class PlanTensor:
    """One tensor of a plan.

    Attributes:
        scheme, options: as a policy rule has them.
        label: short name for tables, such as "int6".
        bytes: expected share of the file, and `predicted_kl` of the KL in nats per token; None where
            no one dial was asked about, or no gradients were measured.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    scheme: str
    options: dict[str, Any]
    label: str
    bytes: int | None
    predicted_kl: float | None


@dataclass(frozen=True)
class PlanTime:
    """How long a build should take, from what the plan itself took.

    Attributes:
        ready_seconds: calibration (next to nothing when cached), the passes before `fit`, and one KL.
        round_seconds: one round of `fit`: every tensor quantised and coded once.
        rounds: how many a build typically takes.
        build_seconds: ready_seconds + rounds * round_seconds.
    """

    ready_seconds: float
    round_seconds: float
    rounds: int
    build_seconds: float


@dataclass(frozen=True)
class ImportReport:
    """What `golfpack import` wrote.

    Attributes:
        notes: what was renamed, split, dropped or kept once.
        aliases: name left out -> name that holds the same tensor, for tensors without a family.
    """

    source: str
    source_sha256: str
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    checkpoint: str
    checkpoint_bytes: int
    tensors: int
    parameters: int
    notes: list[str]
    aliases: dict[str, str]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class DemoRow:
    """One line of the demo's last table; `budget_bytes` and `kl` are None for the float model."""

    model: str
    bytes: int
    budget_bytes: int | None
    headroom_bytes: int | None
    val_bpb: float
    quant_gap: float | None
    kl: float | None


def to_json(report: Any) -> str:
    """A report, or a list of them, as indented JSON."""
    data = [asdict(r) for r in report] if isinstance(report, list) else asdict(report)
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def save(report: Any, path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    write_atomically(path, (to_json(report) + "\n").encode())
