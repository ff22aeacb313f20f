"""`build --refine`: never over, never worse, and the same file every time."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import asked

from golfpack.build import distil as distil_module
from golfpack.build import refine as refine_module
from golfpack.build.distil import FEW_TOKENS, LOOKS
from golfpack.build.refine import CHANGE, NOTHING_BETTER, Refiner, _Steering
from golfpack.build.refine_time import count_work
from golfpack.build.run import build
from golfpack.errors import UsageError
from golfpack.packer.format.loader import load
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.recipe import load_recipe

SHORT = 40 * FEW_TOKENS


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """A high rate, for few updates."""
    monkeypatch.setattr(distil_module, "RATE", 0.02)
    monkeypatch.setattr(distil_module, "WALK", 10.0)


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """A quick build of the tiny model into tmp_path, refined."""
    return asked(
        tiny_path, "3bpw", tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=2048,
        refine=SHORT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "recipe", ["gptq-lite", pytest.param("sdclip-lqer-pergroup", marks=pytest.mark.slow)]
)
def test_training_lowers_the_kl_within_the_budget(options, recipe):
    report = build(options.changed(recipe=recipe, budget="2bpw"))
    assert report.artifact_bytes <= report.budget_bytes
    assert report.refined is not None
    assert report.measured_kl == report.refined.kl < 0.5 * report.refined.rounded_kl
    assert report.predicted_kl is None
    rounded, own = report.refined.rounded_losses
    assert (rounded.text, rounded.kl) == ("held out", report.refined.rounded_kl)
    assert [x.text for x in report.losses] == ["held out", own.text] == ["held out", "own"]
    assert all(x.kl_error > 0 and x.ce_rise_error > 0 for x in report.losses)
    assert 0 < report.refined.changed < 0.5
    for name, (_, tensor) in load(options.output).tensors.items():
        if isinstance(tensor, QTensor):
            limit = 127 if "tok_emb" in name else 63
            assert np.abs(tensor.codes).max() <= limit


def test_the_price_of_bits_steers_the_file_to_its_budget(options, monkeypatch):
    called, seen = _Steering.__call__, []

    def watched(self, latents, behind, saved):
        price = called(self, latents, behind, saved)
        seen.append((self.before, self.aim, price))
        return price

    monkeypatch.setattr(_Steering, "__call__", watched)
    report = build(options.changed(recipe="gptq-lite", budget="2bpw"))
    assert len(seen) == 1 + len(LOOKS)
    prices = [price for *_, price in seen]
    assert prices[0] == refine_module.PRICE["kl"]
    assert all(a / CHANGE <= b <= a * CHANGE for a, b in pairwise(prices))
    assert len(set(prices)) > 1
    assert report.refined is not None
    assert 0.95 * report.budget_bytes < report.artifact_bytes <= report.budget_bytes


@pytest.mark.parametrize(("grows", "dearer"), [(30, True), (-30, False)])
def test_a_file_that_will_be_too_large_makes_bits_dearer(grows, dearer):
    sizes = iter((1000, 1000 + grows))
    steer = _Steering(1.0, 1000, lambda _: next(sizes))
    assert steer({}, 0.0, None) == 1.0
    assert (steer({}, 0.5, 800.0) > 1.0) == dearer


def test_what_ends_over_the_limit_goes_on_coarser_steps(options, monkeypatch):
    """And as steps are coarse, and a few bytes change none of them, by more each time."""
    monkeypatch.setattr(_Steering, "__call__", lambda *_: 0.0)  # bits for nothing
    resized, asked = Refiner._resized, []

    def coarse(self, start, latents, over):
        asked.append(over)
        return resized(self, start, latents, over) if len(asked) > 1 else (start, latents)

    monkeypatch.setattr(Refiner, "_resized", coarse)
    report = build(options.changed(recipe="gptq-lite", budget="2bpw", dry_run=True))
    assert report.artifact_bytes <= report.budget_bytes
    assert len(asked) >= 2
    assert asked[1] == 2 * asked[0] > 0


def test_what_training_cannot_better_stays_as_it_was_rounded(options, monkeypatch):
    options = options.changed(settings=("policy.trellis=false",))
    rounded = build(options.changed(refine=0))
    monkeypatch.setattr(distil_module, "RATE", 1.0)  # no training, but noise
    report = build(options)
    assert report.artifact_sha256 == rounded.artifact_sha256
    assert report.refined is None
    assert report.warnings == [NOTHING_BETTER]
    assert (report.measured_kl, report.losses) == (rounded.measured_kl, rounded.losses)


@pytest.mark.parametrize("refine_on", ["kl", pytest.param("labels", marks=pytest.mark.slow)])
def test_threads_change_no_byte(options, refine_on):
    # What rounds to nearest leaves so much that even a short training finds something on any machine.
    options = options.changed(recipe="gptq-lite", budget="2bpw", refine=SHORT, refine_on=refine_on)
    runs = [build(options.changed(threads=n)) for n in (1, 2)]
    assert runs[0].artifact_sha256 == runs[1].artifact_sha256
    assert runs[0].refined is not None
    assert runs[0].refined == runs[1].refined


def test_auto_is_a_count_of_tokens_that_follows_the_rest_of_the_build(options, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(refine_module, "training_text", lambda _u, _h, n, *_, **__: seen.append(n))
    for change in ({}, {"calib_tokens": 4096}, {"recipe": "gptq-lite", "budget": "2bpw"}):
        with pytest.raises(TypeError):  # there is no text
            build(options.changed(refine="auto", **change))
    assert seen[0] < seen[1]
    assert seen[2] < seen[0]
    wide, narrow = (
        count_work(tiny.spec, load_recipe("rd", s)) for s in ((), ("round.survivors=1",))
    )
    assert wide.search > narrow.search
    assert (wide.calibration, wide.training) == (narrow.calibration, narrow.training)


def test_on_labels_the_cross_entropy_falls_further(options):
    options = options.changed(recipe="gptq-lite", budget="2.5bpw")
    on = {aim: build(options.changed(refine_on=aim)) for aim in ("kl", "labels")}
    held_out = {aim: report.losses[0] for aim, report in on.items()}
    assert held_out["labels"].ce_rise < held_out["kl"].ce_rise
    for aim, report in on.items():
        assert (report.refined.on, report.refined.kl) == (aim, report.losses[0].kl)
        assert report.artifact_bytes <= report.budget_bytes


def test_codes_are_trained_from_what_is_rounded_in_sequence(options, monkeypatch):
    monkeypatch.setattr(refine_module, "IN_TURN", 0.0)
    trained, starts = Refiner._trained, []

    def watched(self, start, aim):
        starts.append((self.prepared.measure_kl(start.tensors), start.size))
        assert not any(
            t.states is not None for t in start.tensors.values() if isinstance(t, QTensor)
        )
        return trained(self, start, aim)

    monkeypatch.setattr(Refiner, "_trained", watched)
    options = options.changed(budget="1.2bpw", refine_on="labels", dry_run=True)
    for settings in ((), ("search.in_sequence=false",)):
        report = build(options.changed(settings=settings))
        assert report.artifact_bytes <= report.budget_bytes
    (kl, size), (at_once, size_at_once) = starts
    assert kl < 0.95 * at_once
    assert size == pytest.approx(size_at_once, rel=0.01)


def test_labels_are_of_real_training_text_and_within_a_budget(options, tmp_path, tiny_shard):
    labels = options.changed(refine_on="labels")
    validation = tmp_path / "tiny_val_000.bin"
    validation.write_bytes(tiny_shard.read_bytes())
    for change, says in (
        ({"calib": None}, "without --calib there is none"),
        ({"calib": str(validation)}, "looks like validation data"),
        ({"refine": 0}, "nothing is trained"),
        ({"budget": None, "target_kl": 0.1}, "a target is a KL"),
    ):
        with pytest.raises(UsageError, match=says):
            build(labels.changed(**change))
    for wrong in ({"refine": "much"}, {"refine": -1}, {"refine_on": "bpb"}):
        with pytest.raises(UsageError):
            options.changed(**wrong)
    assert not options.output.exists()


@pytest.mark.slow
def test_a_target_is_met_with_a_smaller_file(options):
    target, aim = 0.5, options.changed(recipe="gptq-lite", budget=None)
    plain, trained = (build(aim.changed(target_kl=target, refine=n)) for n in (0, SHORT))
    assert trained.measured_kl <= target
    assert trained.artifact_bytes < plain.artifact_bytes


@pytest.mark.parametrize(
    "change", [{"data_free": True, "calib": None}, {"lossless": True, "budget": None}]
)
def test_without_calibration_there_is_nothing_to_train_on(options, change):
    with pytest.raises(UsageError, match="--refine trains on calibration tokens"):
        build(options.changed(**change))
    assert not options.output.exists()


def test_a_model_kept_in_full_is_not_trained(options):
    report = build(options.changed(budget="64bpw"))
    assert report.refined is None
    assert any("nothing was trained" in w for w in report.warnings)
