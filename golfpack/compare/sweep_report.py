"""The document of `golfpack sweep`: bytes against quality, and what more bytes would buy."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any, Literal

from golfpack.base.documents import SCHEMA_VERSION, versions

MEGABYTE = 1_000_000
# Below this many megabytes another one is not the next thing to ask for: a tenth more is.
SMALL = 5

KlSource = Literal["evaluation tokens", "held-out calibration tokens", "prediction"]


@dataclass(frozen=True)
class SweepReport:
    """What `golfpack sweep` found: one recipe on one checkpoint, smallest budget first.

    Attributes:
        code_bytes: how much of every budget is for code that ships too.
        calibration: shard or text; None for text the model wrote itself.
        tokens: path or glob of the shards to evaluate on; None without an evaluation, as below.
        tokens_sha256: of the token ids as little-endian uint16.
        window: targets per window.
        scored_tokens: targets of the bpb.
        float_bpb: of the float model, bits per byte.
        kl_source: what the KL of the rows was measured on, or that it is predicted.
        kl_tokens: how many evaluation tokens that is; None where it is not on those.
        folder: holds the artifacts, their reports and the finished rows; None for a prediction.
        rows: one per budget.
        seconds: wall time of everything.
        png: the picture of the rows, if one was asked for.
    """

    checkpoint: str
    checkpoint_sha256: str
    assumed: dict[str, Any]
    recipe: str
    settings: list[str]
    parameters: int
    code_bytes: int
    calibration: str | None
    seed: int
    tokens: str | None
    tokens_sha256: str | None
    window: int | None
    scored_tokens: int | None
    float_bpb: float | None
    kl_source: KlSource
    kl_tokens: int | None
    folder: str | None
    rows: list["SweepRow"]
    seconds: float
    png: str | None = None
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class SweepRow:
    """One budget. What was not built has `refused`, the reason, and no figures.

    Attributes:
        budget: as it was asked for.
        budget_bytes: the same in bytes.
        refused: why nothing was built; None where something was.
        artifact: path of the file; None for a prediction.
        artifact_sha256: of its bytes.
        artifact_bytes: its size; the expected one, for a prediction.
        headroom_bytes: what is left of the budget; None for a prediction.
        bits_per_weight: 8 artifact_bytes / parameters.
        kl: KL(float || artifact), nats per token; None where nothing measures it.
        val_bpb: of the evaluation, bits per byte.
        bpb_loss: val_bpb minus the float model's; without an evaluation what the KL stands for, and
            None without a tokenizer.
        build_seconds: packing and verifying; without calibration, which rows share.
        reused: taken from an earlier run.
        more: what more bytes would buy; None where no second row tells.
    """

    budget: str
    budget_bytes: int
    refused: str | None = None
    artifact: str | None = None
    artifact_sha256: str | None = None
    artifact_bytes: int | None = None
    headroom_bytes: int | None = None
    bits_per_weight: float | None = None
    kl: float | None = None
    val_bpb: float | None = None
    bpb_loss: float | None = None
    build_seconds: float | None = None
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


def with_more(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """The rows, each with what more bytes would buy.

    The KL falls exponentially in bytes (a bit per weight more is a quarter of the squared error), so
    its logarithm is taken as linear between two rows. Bits per byte change with the KL at the rate
    at which they do between the same two rows.

    Args:
        rows: smallest budget first.
    """
    measured = [r for r in rows if r.kl is not None and r.kl > 0 and r.artifact_bytes]
    found: dict[str, More] = {}
    for at, row in enumerate(measured):
        last = at == len(measured) - 1
        pair = measured[at - 1 : at + 1] if last else measured[at : at + 2]
        if len(pair) == 2:
            more = _more(row, pair[0], pair[1], _unit(measured), last)
            if more is not None:
                found[row.budget] = more
    return [replace(row, more=found.get(row.budget)) for row in rows]


def _unit(rows: Sequence[SweepRow]) -> int | None:
    """Bytes to ask about, or None for a tenth of each row's own."""
    return MEGABYTE if min(r.artifact_bytes or 0 for r in rows) >= SMALL * MEGABYTE else None


def _more(
    row: SweepRow, low: SweepRow, high: SweepRow, unit: int | None, extrapolated: bool
) -> More | None:
    assert low.artifact_bytes is not None
    assert high.artifact_bytes is not None
    assert row.artifact_bytes is not None
    assert low.kl is not None
    assert high.kl is not None
    assert row.kl is not None
    step = high.artifact_bytes - low.artifact_bytes
    if step <= 0:
        return None
    added = unit or round(0.1 * row.artifact_bytes)
    slope = log(high.kl / low.kl) / step
    # Beyond the rows a rising KL is noise, which must not grow without end.
    change = row.kl * (exp(min(slope * added, 1.0)) - 1)
    bpb = None
    if low.bpb_loss is not None and high.bpb_loss is not None and high.kl != low.kl:
        bpb = change * (high.bpb_loss - low.bpb_loss) / (high.kl - low.kl)
    what = "another megabyte" if unit else f"10% more ({added:,} bytes)"
    return More(added, change, bpb, extrapolated, _says(row, what, change, bpb, extrapolated))


def _says(row: SweepRow, what: str, change: float, bpb: float | None, extrapolated: bool) -> str:
    assert row.kl is not None
    basis = ", if the curve goes on as before" if extrapolated else ""
    if change >= 0:
        return f"at {row.budget}, {what} would buy nothing that shows in the KL{basis}"
    share = f"{-change / row.kl:.0%}"
    bits = ""
    if bpb is not None:
        turn = "off the loss" if bpb <= 0 else "on top of the loss"
        bits = f" and {abs(bpb):.2g} bits per byte {turn}"
    return (
        f"at {row.budget}, {what} would take {share} off the KL "
        f"({row.kl:.3g} to {row.kl + change:.3g}){bits}{basis}"
    )
