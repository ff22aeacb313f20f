"""The t-test against scipy's, and the conversions between nats and bits per byte."""

import math

import pytest
from scipy import stats

from golfpack.errors import UsageError
from golfpack.eval.significance import nats_per_bpb, t_test


def test_it_is_the_one_sided_t_test():
    runs = [1.0610, 1.0613, 1.0621]
    test = t_test(runs, 1.0634, 0.00194)
    for p, bound in ((test.p_better, 1.0634), (test.p_margin, 1.0634 - 0.00194)):
        assert p == pytest.approx(stats.ttest_1samp(runs, bound, alternative="less")[1])
    assert test.improvement == pytest.approx(1.0634 - sum(runs) / 3)
    assert test.std == pytest.approx(stats.tstd(runs))
    assert test.p_better < test.p_margin
    worse = t_test(runs, 1.05, 0.00194)
    assert worse.p_better > 0.99


def test_it_does_not_depend_on_the_unit():
    runs = [2.88, 2.881, 2.8795]
    factor = nats_per_bpb(40_540_160, 151_000_000)
    nats = t_test(runs, 2.89, 0.005)
    bits = t_test([r / factor for r in runs], 2.89 / factor, 0.005 / factor)
    assert nats.p_margin == pytest.approx(bits.p_margin)
    assert 0.005 / math.log(2) == pytest.approx(0.0072, abs=5e-5)
    assert 0.005 / factor == pytest.approx(0.00194, abs=5e-6)


@pytest.mark.parametrize(("runs", "says"), [([1.0], "no spread"), ([1.0, 1.0], "all 2 runs")])
def test_runs_without_spread(runs, says):
    with pytest.raises(UsageError, match=says):
        t_test(runs, 1.1, 0.005)
