"""From runs to the answer: means over seeds, the best shape, and what one in between would give."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from golfpack.size.fit import Curves, Rung, fit
from golfpack.size.report import Between, SizeRow, SizeRun
from golfpack.train.shapes import Shape, read_shape


def rows_of(runs: Sequence[SizeRun]) -> list[SizeRow]:
    """A row per shape, smallest first."""
    shapes = {r.shape: r.parameters for r in sorted(runs, key=lambda r: r.parameters)}
    return [_row([r for r in runs if r.shape == s], s, size) for s, size in shapes.items()]


def _row(runs: Sequence[SizeRun], shape: str, parameters: int) -> SizeRow:
    refused = next((r.refused for r in runs if r.refused is not None), None)
    if refused is not None:
        return SizeRow(shape, parameters, refused=refused)
    floats = _known([r.float_bpb for r in runs])
    artifacts = _known([r.artifact_bpb for r in runs])
    return SizeRow(
        shape, parameters, len(runs),
        bits_per_weight=fmean(_known([r.bits_per_weight for r in runs])),
        float_bpb=fmean(floats),
        float_spread=spread(floats),
        gap=fmean(_known([r.gap for r in runs])),
        artifact_bpb=fmean(artifacts),
        artifact_spread=spread(artifacts),
        tokens_per_second=fmean(_known([r.tokens_per_second for r in runs])),
        trained_tokens=fmean(_known([r.trained_tokens for r in runs])),
    )  # fmt: skip


def _known(values: Sequence[float | None]) -> list[float]:
    found = [v for v in values if v is not None]
    assert len(found) == len(values)  # a run that was not refused has all its figures
    return found


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one."""
    return stdev(values) if len(values) > 1 else None


def best_of(rows: Sequence[SizeRow]) -> SizeRow | None:
    """The row of the lowest artifact's bits per byte; None where nothing was built."""
    built = [r for r in rows if r.artifact_bpb is not None]
    return min(built, key=lambda r: r.artifact_bpb or 0.0) if built else None


def curves_of(rows: Sequence[SizeRow]) -> Curves | None:
    """Those through the means over seeds."""
    return fit([r for row in rows if (r := _rung(row)) is not None])


def _rung(row: SizeRow | SizeRun) -> Rung | None:
    if row.bits_per_weight is None or row.float_bpb is None or row.gap is None:
        return None
    return Rung(row.parameters, row.bits_per_weight, row.float_bpb, row.gap)


def between_of(
    runs: Sequence[SizeRun], curves: Curves, best: SizeRow, sizes: Mapping[Shape, int], budget: int
) -> Between | None:
    """The shape that was not trained and that the curves expect most of; None where there is none.

    Args:
        sizes: shapes to choose among -> parameters.
        budget: bytes for the artifact.
    """
    tried = {r.shape for r in runs}
    known = [r.parameters for r in runs if r.refused is None]
    fitting = {
        s: n for s, n in sizes.items() if s.name not in tried and min(known) <= n <= max(known)
    }
    if not fitting:
        return None
    bits = {s: 8 * budget / n for s, n in fitting.items()}
    shape = min(fitting, key=lambda s: curves.at(fitting[s], bits[s]))
    expected = curves.at(fitting[shape], bits[shape])
    assert best.artifact_bpb is not None
    return Between(
        shape.name, fitting[shape], bits[shape], expected,
        _spread_over_seeds(runs, fitting[shape], bits[shape]), best.artifact_bpb - expected,
    )  # fmt: skip


def _spread_over_seeds(runs: Sequence[SizeRun], parameters: int, bits: float) -> float | None:
    """Of what curves through the runs of one seed each expect there."""
    found = []
    for seed in {r.seed for r in runs}:
        curves = fit([g for r in runs if r.seed == seed and (g := _rung(r)) is not None])
        if curves is not None:
            found.append(curves.at(parameters, bits))
    return spread(found)


def noise_of(curves: Curves, between: Between) -> float:
    """Bits per byte that a gain has to exceed: what the curves miss their own points by, or seeds."""
    return max(curves.residual, between.spread or 0.0)


def recommended(best: SizeRow, curves: Curves | None, between: Between | None) -> str:
    """The shape to train."""
    if curves is None or between is None or between.gain <= noise_of(curves, between):
        return best.shape
    return between.shape


def in_words(
    rows: Sequence[SizeRow], best: SizeRow | None, curves: Curves | None, between: Between | None
) -> list[str]:
    """The answer, sentence by sentence."""
    if best is None:
        return []
    seeds = f" ± {best.artifact_spread:.4f} ({best.runs} seeds)" if best.artifact_spread else ""
    says = [
        f"best measured: {best.shape}, {best.parameters:,} parameters at "
        f"{best.bits_per_weight:.2f} bits per weight: {best.artifact_bpb:.4f} bits per byte{seeds}"
    ]
    alike = [r for r in rows if bool(read_shape(r.shape).rows) == bool(read_shape(best.shape).rows)]
    if len(alike) > 1 and best in (alike[0], alike[-1]):
        side = "smaller" if best is alike[0] else "larger"
        says.append(f"that is the {side} end of the ladder: a {side} shape may be better still")
    if curves is None:
        says.append("fewer than three shapes were built: no curve says what lies in between")
        return says
    if between is None:
        return says
    over = "" if between.spread is None else f" ± {between.spread:.4f} over seeds"
    says.append(
        f"in between: {between.shape}, {between.parameters:,} parameters at "
        f"{between.bits_per_weight:.2f} bits per weight, would give {between.artifact_bpb:.4f}{over} "
        f"by the curves, which miss their own points by {curves.residual:.4f}"
    )
    chosen = recommended(best, curves, between)
    why = "more" if chosen == between.shape else "not more"
    says.append(
        f"recommended: {chosen}; the one in between gains {between.gain:+.4f}, {why} than the noise of "
        f"{noise_of(curves, between):.4f}"
    )
    return says
