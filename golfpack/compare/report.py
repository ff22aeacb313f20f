"""The documents of `golfpack compare`: one table, and its rows."""

from dataclasses import dataclass, field
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class CompareReport:
    """What `golfpack compare` found: every recipe at every budget, on one checkpoint and one stream.

    Attributes:
        window: targets per window; the KL is measured on windows of the same length.
        kl_tokens: how many tokens that is, from the start of the stream.
        calibration: shard or text; None for text the model wrote itself.
        scored_tokens: targets of the bpb.
        float_bytes: size of the checkpoint's file.
        float_loss: of the float model, nats per token.
        float_bpb: of the float model, bits per byte.
        code_bytes: how much of every budget is for code that ships too.
        folder: holds the artifacts and the finished rows.
        rows: one per recipe and budget.
        seconds: wall time of everything.
    """

    checkpoint: str
    checkpoint_sha256: str
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    settings: list[str]
    calibration: str | None
    seed: int
    code_bytes: int
    tokens: str
    tokens_sha256: str
    tokenizer: str
    window: int
    scored_tokens: int
    kl_tokens: int
    float_bytes: int
    float_loss: float
    float_bpb: float
    folder: str
    rows: list["CompareRow"]
    seconds: float
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class CompareRow:
    """One recipe at one budget. What was not built has `refused`, the reason, and no figures.

    Attributes:
        budget: as it was asked for.
        budget_bytes: the same in bytes.
        refused: why nothing was built, if so.
        artifact: path of the file.
        artifact_sha256: of its bytes.
        artifact_bytes: its size.
        headroom_bytes: budget minus file.
        headroom_share: of the budget.
        bits_per_weight: 8 bytes / weights.
        val_loss: nats per token.
        val_bpb: bits per byte.
        quant_gap: val_bpb minus that of the float model.
        kl: KL(float || artifact) on the evaluation tokens, nats per token.
        build_kl, build_bpb: the build's own measurement, on held-out calibration tokens; the KL in nats
            per token, and what it stands for in bits per byte.
        build_seconds: packing and verifying.
        calibrate_seconds: next to nothing where an earlier build left its statistics in the cache.
        reused: taken from an earlier run.
    """

    recipe: str
    budget: str
    budget_bytes: int
    refused: str | None = None
    artifact: str | None = None
    artifact_sha256: str | None = None
    artifact_bytes: int | None = None
    headroom_bytes: int | None = None
    headroom_share: float | None = None
    bits_per_weight: float | None = None
    val_loss: float | None = None
    val_bpb: float | None = None
    quant_gap: float | None = None
    kl: float | None = None
    build_kl: float | None = None
    build_bpb: float | None = None
    build_seconds: float | None = None
    calibrate_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    reused: bool = False
