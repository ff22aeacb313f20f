"""Curves through rungs that were made of known ones, and the answer that follows."""

from dataclasses import replace
from math import exp, log

import pytest

from golfpack.size.answer import best_of, between_of, curves_of, in_words, recommended, rows_of
from golfpack.size.fit import Rung, fit
from golfpack.size.report import SizeRun
from golfpack.train.shapes import Shape

BUDGET = 100_000
# Lowest at 400,000 parameters without the budget; the budget moves that down.
SIZES = {
    Shape(64, 3): 150_000,
    Shape(96, 4): 300_000,
    Shape(128, 4): 500_000,
    Shape(160, 5): 800_000,
}
OTHERS = {Shape(d, 4): 150_000 + 6_500 * (d - 64) for d in range(64, 176, 16)}


def float_bpb(parameters: float) -> float:
    return 2.0 + 0.05 * log(parameters / 400_000) ** 2


def gap(bits: float) -> float:
    return exp(-1.0 - 1.1 * bits)


def run(shape: Shape, parameters: int, seed: int = 0, off: float = 0.0) -> SizeRun:
    bits = 8 * BUDGET / parameters
    before, added = float_bpb(parameters) + off, gap(bits)
    return SizeRun(
        shape.name, parameters, seed, 10, 1000, 1.0, 1000.0, before, 99, None, "a.golf", BUDGET, bits,
        before + added, added,
    )  # fmt: skip


def runs(*offsets: float) -> list[SizeRun]:
    return [run(s, n, seed, off) for seed, off in enumerate(offsets) for s, n in SIZES.items()]


def test_curves_give_back_what_rungs_were_made_of():
    rungs = [Rung(n, 8 * BUDGET / n, float_bpb(n), gap(8 * BUDGET / n)) for n in SIZES.values()]
    curves = fit(rungs)
    assert curves is not None
    assert curves.float_bpb.residual < 1e-9
    for n in (320_000, 450_000, 700_000):
        expected = float_bpb(n) + gap(8 * BUDGET / n)
        assert curves.at(n, 8 * BUDGET / n) == pytest.approx(expected, abs=1e-9)
    # One that scored better than its float model, by chance, changes next to nothing.
    lucky = fit([replace(r, gap=-1e-4) if at == 0 else r for at, r in enumerate(rungs)])
    assert lucky is not None
    assert lucky.at(450_000, 1.8) == pytest.approx(curves.at(450_000, 1.8), abs=2e-3)
    assert fit(rungs[:2]) is None
    assert fit([rungs[0], rungs[0], rungs[1]]) is None


def answered(told: list[SizeRun]):
    rows = rows_of(told)
    best, curves = best_of(rows), curves_of(rows)
    assert best is not None
    assert curves is not None
    found = between_of(told, curves, best, OTHERS | SIZES, BUDGET)
    assert found is not None
    assert found.gain == pytest.approx(best.artifact_bpb - found.artifact_bpb)
    return rows, best, curves, found


def test_the_shape_in_between_is_the_best_of_those_that_fit():
    *_, found = answered(runs(0.0))
    exact = {s.name: float_bpb(n) + gap(8 * BUDGET / n) for s, n in OTHERS.items()}
    tried = {s.name for s in SIZES}
    assert found.shape == min((s for s in exact if s not in tried), key=exact.__getitem__)
    assert found.spread is None
    assert min(SIZES.values()) <= found.parameters <= max(SIZES.values())


@pytest.mark.parametrize("offset", [1e-6, 0.05])
def test_a_gain_below_the_noise_is_no_reason_to_train_another_shape(offset):
    rows, best, curves, found = answered(runs(0.0, offset))
    assert found.gain > curves.residual
    # The curves of one seed each lie as far apart as the seeds.
    assert found.spread == pytest.approx(offset / 2**0.5, rel=1e-3)
    assert best.artifact_spread == pytest.approx(offset / 2**0.5)
    chosen = recommended(best, curves, found)
    assert chosen == (found.shape if found.gain > offset / 2**0.5 else best.shape)
    assert f"recommended: {chosen};" in in_words(rows, best, curves, found)[-1]
    assert (chosen == found.shape) == (offset < 0.01)


def test_the_end_of_a_ladder_and_refusals_are_said():
    told = [run(s, n) for s, n in list(SIZES.items())[:2]]
    refused = SizeRun("9x256", 5_000_000, 0, float_bpb=1.0, refused="it does not fit")
    rows = rows_of([*told, refused])
    assert [r.refused for r in rows] == [None, None, "it does not fit"]
    best = best_of(rows)
    says = " ".join(in_words(rows, best, None, None))
    assert "best measured: 4x96" in says
    assert "end of the ladder" not in says  # the larger one did not fit
    shorter = " ".join(in_words(rows[:2], best, None, None))
    assert "larger end of the ladder: a larger shape may be better" in shorter
    assert "fewer than three shapes" in says
    assert best_of(rows_of([refused])) is None
