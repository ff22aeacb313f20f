"""Whether runs beat a baseline: the challenge's significance rule.

openai/parameter-golf asks for an improvement of at least 0.005 nats per token over the record, shown at
p < 0.01, normally by three seeds and a one-sided t-test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from golfpack.errors import UsageError

MARGIN_NATS = 0.005
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class TTest:
    """Runs against a baseline in one unit; a lower figure is better.

    Attributes:
        mean, std: of the runs; the standard deviation is the sample's (n - 1).
        baseline: what they are held against.
        margin: improvement the rule asks for, in this unit.
        improvement: baseline - mean.
        p_better: of a mean at or above the baseline (one-sided t-test).
        p_margin: of an improvement of `margin` or less (the same test against baseline - margin).
    """

    mean: float
    std: float
    baseline: float
    margin: float
    improvement: float
    p_better: float
    p_margin: float


def t_test(values: Sequence[float], baseline: float, margin: float) -> TTest:
    """One-sided t-tests of the mean of some runs against a fixed baseline.

    Raises:
        UsageError: fewer than two runs, or runs that are all equal: they have no spread to test.
    """
    if len(values) < 2:
        raise UsageError(
            f"{len(values)} run has no spread to test", "give at least two, normally three seeds"
        )
    x = np.asarray(values, np.float64)
    if float(np.ptp(x)) == 0.0:
        raise UsageError(
            f"all {len(x)} runs have the figure {x[0]}",
            "give runs of different seeds, not one run several times",
        )
    return TTest(
        mean=float(x.mean()),
        std=float(x.std(ddof=1)),
        baseline=baseline,
        margin=margin,
        improvement=baseline - float(x.mean()),
        p_better=_p_below(x, baseline),
        p_margin=_p_below(x, baseline - margin),
    )


def _p_below(x: np.ndarray, bound: float) -> float:
    """Probability of a mean this low or lower if the true mean were `bound`."""
    t = (x.mean() - bound) / (x.std(ddof=1) / math.sqrt(len(x)))
    return float(stats.t.cdf(t, len(x) - 1))


def nats_per_bpb(scored_tokens: int, scored_bytes: int) -> float:
    """Nats per token that make one bit per byte on a stream."""
    return math.log(2) * scored_bytes / scored_tokens
