"""`search.in_sequence`: the same budget, less of a loss, never more of either."""

from dataclasses import replace
from statistics import geometric_mean

import numpy as np
import pytest
from conftest import asked

from golfpack.build import in_sequence as in_sequence_module
from golfpack.build.in_sequence import InSequence
from golfpack.build.run import build
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.passes import quantize

AT_ONCE = ("search.in_sequence=false",)


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path, monkeypatch):
    """A build of the tiny model into tmp_path, with as many sequences of codes as users have."""
    monkeypatch.setattr(quantize, "_EACH", (4, 1))
    return asked(
        tiny_path, "3bpw", tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=4096,
    )  # fmt: skip


def test_it_loses_less_within_the_same_budget(options, tmp_path):
    report = build(options.changed(threads=1))
    assert report.in_sequence is not None
    # The same sums in another order.
    assert report.measured_kl == pytest.approx(report.in_sequence.kl, rel=1e-12)
    assert report.in_sequence.kl < 0.9 * report.in_sequence.at_once_kl
    assert 0 <= report.headroom_bytes <= 64
    assert report.trace[-1] == [report.dial, report.artifact_bytes]
    assert report.predicted_kl is None
    sizes = [p.bytes for p in report.frontier]
    assert report.artifact_bytes in sizes
    again = build(options.changed(threads=2, output=tmp_path / "again.golf"))
    assert again.artifact_sha256 == report.artifact_sha256
    # The search in front need not fill the budget.
    assert 0.99 * report.budget_bytes <= report.in_sequence.at_once_bytes <= report.budget_bytes


@pytest.mark.slow
def test_it_loses_less_than_a_search_that_fills_the_budget(options):
    ratios: list[float] = []  # a single build scatters by several percent
    for budget in ("2.5bpw", "3bpw", "3.5bpw"):
        each = options.changed(budget=budget, dry_run=True)
        at_once = build(each.changed(settings=AT_ONCE))
        assert at_once.in_sequence is None
        assert at_once.predicted_kl is not None
        assert 0 <= at_once.headroom_bytes <= 64
        ratios.append(build(each).measured_kl / at_once.measured_kl)
    assert geometric_mean(ratios) < 0.9


@pytest.mark.parametrize(
    "budget", ["1bpw", *(pytest.param(b, marks=pytest.mark.slow) for b in ("2.4bpw", "5.5bpw"))]
)
def test_a_budget_is_filled_and_never_exceeded(options, budget):
    report = build(options.changed(budget=budget, dry_run=True))
    assert report.in_sequence is not None
    assert 0 <= report.headroom_bytes <= 64
    assert report.in_sequence.kl < report.in_sequence.at_once_kl


def test_a_target_is_met_by_a_smaller_file(options):
    report = build(options.changed(budget=None, target_kl=0.02))
    assert report.in_sequence is not None
    assert report.measured_kl <= 0.02
    assert report.artifact_bytes < report.in_sequence.at_once_bytes


def test_what_is_no_better_is_not_taken(options, monkeypatch, tmp_path):
    def worse(self, _limit):
        tensors = {
            n: replace(t, codes=np.zeros_like(t.codes)) if isinstance(t, QTensor) else t
            for n, t in self.found.tensors.items()
        }
        return replace(self.found, tensors=tensors)

    monkeypatch.setattr(InSequence, "_within", worse)
    report = build(options.changed(budget="2bpw"))
    assert report.in_sequence is None
    at_once = build(
        options.changed(budget="2bpw", settings=AT_ONCE, output=tmp_path / "at_once.golf")
    )
    assert report.artifact_sha256 == at_once.artifact_sha256
    assert report.trace == at_once.trace


@pytest.mark.parametrize("patch", [{"LEFT": -0.05}, {"TRIES": 1}])
def test_what_does_not_fit_is_not_taken(options, monkeypatch, patch):
    """Aimed beyond the budget, which the last layer cannot make up for, or without a try to."""
    for name, value in patch.items():
        monkeypatch.setattr(in_sequence_module, name, value)
    report = build(options.changed(budget="2bpw", dry_run=True))
    assert report.artifact_bytes <= report.budget_bytes
    assert report.measured_kl is not None


def test_a_budget_beyond_use_is_left_as_it_is(options):
    report = build(options.changed(budget="14bpw", dry_run=True))
    assert report.in_sequence is None
