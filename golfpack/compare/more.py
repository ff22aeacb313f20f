"""What more bytes would buy, by the curve through the rows of one recipe."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

from golfpack.compare.report import CompareRow, More

MEGABYTE = 1_000_000
# Below this many megabytes another one is not the next thing to ask for: a tenth more is.
SMALL = 5


def with_more(rows: Sequence[CompareRow]) -> list[CompareRow]:
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


def _unit(rows: Sequence[CompareRow]) -> int | None:
    """Bytes to ask about, or None for a tenth of each row's own."""
    return MEGABYTE if min(r.artifact_bytes or 0 for r in rows) >= SMALL * MEGABYTE else None


def _more(
    row: CompareRow, low: CompareRow, high: CompareRow, unit: int | None, extrapolated: bool
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
    if low.quant_gap is not None and high.quant_gap is not None and high.kl != low.kl:
        bpb = change * (high.quant_gap - low.quant_gap) / (high.kl - low.kl)
    what = "another megabyte" if unit else f"10% more ({added:,} bytes)"
    return More(added, change, bpb, extrapolated, _says(row, what, change, bpb, extrapolated))


def _says(row: CompareRow, what: str, change: float, bpb: float | None, extrapolated: bool) -> str:
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
