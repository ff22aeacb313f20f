"""The document of `golfpack compare` and `golfpack sweep`: one table, and its rows."""

from dataclasses import dataclass, field
from typing import Any, Literal

from golfpack.base.documents import SCHEMA_VERSION, versions

KlSource = Literal["evaluation tokens", "held-out calibration tokens", "prediction"]


@dataclass(frozen=True)
class CompareReport:
    """What `golfpack compare` or `golfpack sweep` found: recipes at budgets, on one checkpoint.

    Attributes:
        recipes: names, as rows have them.
        calibration: shard or text; None for text the model wrote itself.
        code_bytes: how much of every budget is for code that ships too.
        tokens: path or glob of the shards to evaluate on; None without an evaluation, as below.
        tokens_sha256: of the token ids as little-endian uint16, or uint32 where one is beyond 65,535.
        tokenizer: of the tokens, and of calibration text.
        window: targets per window; the KL is measured on windows of the same length.
        scored_tokens: targets of the bpb.
        float_bytes: size of the checkpoint's file.
        float_loss: of the float model, nats per token.
        float_bpb: of the float model, bits per byte.
        kl_source: what the KL of the rows was measured on, or that it is predicted.
        kl_tokens: how many evaluation tokens that is; None where it is not on those.
        folder: holds the artifacts, their reports and the finished rows; None for a prediction.
        rows: one per recipe and budget.
        seconds: wall time of everything.
        png: the picture of the rows, if one was asked for.
    """

    checkpoint: str
    checkpoint_sha256: str
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    parameters: int
    recipes: list[str]
    settings: list[str]
    calibration: str | None
    seed: int
    code_bytes: int
    tokens: str | None
    tokens_sha256: str | None
    tokenizer: str | None
    window: int | None
    scored_tokens: int | None
    float_bytes: int
    float_loss: float | None
    float_bpb: float | None
    kl_source: KlSource
    kl_tokens: int | None
    folder: str | None
    rows: list["CompareRow"]
    seconds: float
    png: str | None = None
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
        artifact_bytes: its size; the expected one, for a prediction.
        headroom_bytes: budget minus file; None for a prediction, as above.
        headroom_share: of the budget.
        bits_per_weight: 8 bytes / weights.
        val_loss: nats per token.
        val_bpb: bits per byte.
        quant_gap: val_bpb minus that of the float model; without an evaluation what the KL stands for,
            and None without a tokenizer.
        kl: KL(float || artifact), nats per token; see `kl_source`. None where nothing measures it.
        build_kl, build_bpb: the build's own measurement, on held-out calibration tokens; the KL in nats
            per token, and what it stands for in bits per byte.
        build_seconds: packing and verifying.
        calibrate_seconds: next to nothing where an earlier build left its statistics in the cache.
        reused: taken from an earlier run.
        more: what more bytes would buy; None where no second row of the recipe tells.
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
    more: "More | None" = None


@dataclass(frozen=True)
class More:
    """What more bytes would change, by the rows on both sides of here.

    Attributes:
        bytes: how many more: a megabyte, or a tenth of a small artifact.
        kl: change of the KL, nats per token; below 0 is better.
        bpb: change in bits per byte; None where no row has any.
        extrapolated: by the rows before this one, as none comes after it.
        says: the same in words.
    """

    bytes: int
    kl: float
    bpb: float | None
    extrapolated: bool
    says: str
