"""The document of `golfpack size`: a table of shapes, its runs, two curves and an answer."""

from dataclasses import dataclass, field

from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.size.fit import Curves


@dataclass(frozen=True)
class SizeRun:
    """One shape and seed: trained, compiled, scored.

    Attributes:
        shape: as it is typed: layers x width, and rows x width of a table of token pairs, if any.
        parameters: weights, tied ones once.
        steps: optimiser steps taken.
        trained_tokens: seen in training, each time anew.
        train_seconds: wall time of training.
        tokens_per_second: of training.
        float_bpb: of the float model on the held-out tokens.
        scored_tokens: of those.
        refused: why nothing was built, if so; then the figures below are null.
        artifact: path of the file.
        artifact_bytes: its size.
        bits_per_weight: 8 bytes / parameters.
        artifact_bpb: of the artifact on the same tokens.
        gap: artifact_bpb minus float_bpb.
        kl: KL(float || artifact) on held-out calibration tokens, nats per token.
        build_seconds: of compiling.
        reused: trained and compiled by an earlier run.
    """

    shape: str
    parameters: int
    seed: int
    steps: int | None = None
    trained_tokens: int | None = None
    train_seconds: float | None = None
    tokens_per_second: float | None = None
    float_bpb: float | None = None
    scored_tokens: int | None = None
    refused: str | None = None
    artifact: str | None = None
    artifact_bytes: int | None = None
    bits_per_weight: float | None = None
    artifact_bpb: float | None = None
    gap: float | None = None
    kl: float | None = None
    build_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True)
class SizeRow:
    """A shape: means over its seeds. One that was refused with any seed has `refused` alone.

    Attributes:
        shape: as it is typed: layers x width, and rows x width of a table of token pairs, if any.
        parameters: weights, tied ones once.
        runs: seeds that the means are over.
        bits_per_weight: 8 bytes of the artifact / parameters.
        float_bpb: of the float models.
        float_spread: standard deviation over seeds; null for one.
        gap: what compiling adds, bits per byte.
        artifact_bpb: of the artifacts.
        artifact_spread: standard deviation over seeds; null for one.
        tokens_per_second: of training.
        trained_tokens: seen in training.
        refused: why nothing was built, if so.
    """

    shape: str
    parameters: int
    runs: int = 0
    bits_per_weight: float | None = None
    float_bpb: float | None = None
    float_spread: float | None = None
    gap: float | None = None
    artifact_bpb: float | None = None
    artifact_spread: float | None = None
    tokens_per_second: float | None = None
    trained_tokens: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Between:
    """What the curves expect of a shape that was not trained.

    Attributes:
        shape: layers x width.
        parameters: weights, tied ones once.
        bits_per_weight: that the budget gives it.
        artifact_bpb: to expect of its artifact.
        spread: standard deviation of that over curves of one seed each; null for one seed.
        gain: how much lower that is than the best measured shape's.
    """

    shape: str
    parameters: int
    bits_per_weight: float
    artifact_bpb: float
    spread: float | None
    gain: float


@dataclass(frozen=True)
class SizeReport:
    """What `golfpack size` found: how large a model is best at a budget.

    Attributes:
        budget: as it was asked for.
        budget_bytes: the same in bytes.
        code_bytes: how much of it is for code that ships too.
        recipe: what compiled them.
        steps, minutes: of every run.
        seeds: runs of each shape.
        tokens: paths of what was trained on.
        held_out: path of what models were scored on.
        scored_tokens: of that.
        rows: one per shape, smallest first.
        runs: one per shape and seed.
        curves: through rows of the usual depths, or those named; null for fewer than three.
        best: the shape of the lowest artifact_bpb; null where nothing was built.
        between: the best shape that was not trained, by the curves; null without curves.
        recommended: that one where it is better by more than the noise, else `best`.
        says: the answer in words.
        notes: what an earlier run had under other settings, and was made anew.
        folder: holds everything.
        png: the picture; null without matplotlib.
        seconds: wall time of everything.
    """

    family: str
    budget: str
    budget_bytes: int
    code_bytes: int
    recipe: str
    steps: int | None
    minutes: float | None
    seeds: int
    settings: list[str]
    tokens: list[str]
    tokens_sha256: str
    tokenizer: str
    held_out: str
    scored_tokens: int | None
    rows: list[SizeRow]
    runs: list[SizeRun]
    curves: Curves | None
    best: str | None
    between: Between | None
    recommended: str | None
    says: list[str]
    notes: list[str]
    folder: str
    png: str | None
    seconds: float
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
