"""Rounding in turn: every code once, within the budget, and better for what it trains on the way."""

import numpy as np
import pytest
from conftest import asked

from golfpack.build import in_turn as in_turn_module
from golfpack.build import refine as refine_module
from golfpack.build.distil import FEW_TOKENS
from golfpack.build.in_turn import GROUPS, InTurn, in_groups
from golfpack.build.refine import NOTHING_BETTER, Refiner
from golfpack.build.run import build
from golfpack.packer.format.loader import load
from golfpack.packer.format.steps import F16Steps
from golfpack.packer.format.tensors import QTensor, Raw
from golfpack.packer.recipe import load_recipe
from golfpack.spec import ModelSpec, TensorSpec

SHORT = 200 * FEW_TOKENS


@pytest.fixture(autouse=True, scope="module")
def in_turn():
    """Few bits, of which even a short training finds something to gain on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refine_module, "IN_TURN", 1.0)
        yield


def refined(path, shard, folder):
    """A quick build of the tiny model by `rd` into a folder, refined from rounding all at once."""
    return asked(
        path, "1.2bpw", folder / "out.golf", calib=str(shard), calib_tokens=2048, refine=SHORT,
        settings=("search.in_sequence=false",),
    )  # fmt: skip


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    return refined(tiny_path, tiny_shard, tmp_path)


@pytest.fixture(scope="module")
def built(tiny_path, tiny_shard, tmp_path_factory, in_turn):
    """Such a build, on one thread: its file and its report."""
    options = refined(tiny_path, tiny_shard, tmp_path_factory.mktemp("built"))
    return options.output, build(options.changed(threads=1))


def network(blocks, outside=("embed",), kept=()):
    """A spec of so many blocks with a matrix and a vector each, and its tensors."""
    specs = [TensorSpec(f"out.{i}", (4, 3), role) for i, role in enumerate(outside)]
    for b in range(blocks):
        specs += [
            TensorSpec(f"{b}.w", (4, 3), "mlp_in", b),
            TensorSpec(f"{b}.scale", (3,), "vector", b),
        ]
    code = QTensor(np.zeros((4, 3), np.int32), F16Steps(np.ones((4, 1), np.float16), 3))
    raw = Raw(np.zeros((4, 3), np.float32), "f32")
    tensors = {t.name: raw if t.name in kept else code for t in specs}
    return ModelSpec(tensors=tuple(specs), family="golf", config={}), tensors


@pytest.mark.parametrize("blocks", [1, 3, GROUPS - 1, 48])
@pytest.mark.parametrize("outside", [(), ("embed",), ("embed", "head")])
def test_every_code_is_in_one_group_from_the_last_block_to_the_first(blocks, outside):
    spec, tensors = network(blocks, outside, kept=("0.scale",))
    groups = in_groups(spec, tensors)
    names = [n for g in groups for n in g]
    assert sorted(names) == sorted(n for n, t in tensors.items() if isinstance(t, QTensor))
    assert len(groups) <= GROUPS + 1
    order = [int(n.split(".")[0]) for n in names if n.endswith(".w")]
    assert order == sorted(order, reverse=True)
    last = groups[-1]
    assert set(last) == {f"out.{i}" for i in range(len(outside))} or "0.w" in last
    vectors = [i for i, g in enumerate(groups) if any("scale" in n for n in g)]
    assert vectors in ([], [len(groups) - 2])


def test_without_blocks_tensors_are_groups_by_themselves():
    spec, tensors = network(0, ("mlp_in", "mlp_in", "mlp_in"))
    assert in_groups(spec, tensors) == [["out.2"], ["out.1"], ["out.0"]]


def test_the_kl_falls_and_the_budget_is_filled(built, tiny):
    path, report = built
    assert report.refined is not None
    assert report.measured_kl == report.refined.kl < 0.95 * report.refined.rounded_kl
    enough = load_recipe("rd", ()).search.enough(report.budget_bytes)
    assert 0 <= report.headroom_bytes <= enough
    assert 0 < report.refined.changed < 0.9
    # Codes have states still, and errors are told against the checkpoint, not where weights moved to.
    tensors = load(path).tensors
    assert any(isinstance(t, QTensor) and t.states is not None for _, t in tensors.values())
    for told in report.tensors:
        w = tiny.weights[told.name]
        off = np.linalg.norm(tensors[told.name][1].dequantize().reshape(w.shape) - w)
        assert told.rel_err == pytest.approx(off / np.linalg.norm(w), rel=1e-5)


@pytest.mark.slow
def test_threads_change_no_byte(options, built):
    other = build(options.changed(threads=2))
    assert other.artifact_sha256 == built[1].artifact_sha256
    assert other.refined == built[1].refined


def test_noise_is_not_taken(options, built, monkeypatch):
    monkeypatch.setattr(in_turn_module, "RATE", 3.0)
    monkeypatch.setattr(in_turn_module, "WALK", 1000.0)
    report = build(options.changed(refine=SHORT // 8))
    assert report.warnings == [NOTHING_BETTER]
    assert (report.refined, report.measured_kl) == (None, built[1].refined.rounded_kl)
    assert report.artifact_bytes == built[1].refined.rounded_bytes


def test_a_budget_with_room_to_spare_stays_unfilled(options):
    """What the search leaves free because a model cannot use it, the last group does not fill."""
    report = build(options.changed(budget="14bpw", refine=SHORT // 8))
    assert report.artifact_bytes < 0.9 * report.budget_bytes
    if report.refined is not None:
        assert report.artifact_bytes <= report.refined.rounded_bytes


@pytest.mark.slow  # test_refine.py has the same search with trained codes
def test_a_target_is_met_with_a_smaller_file(options, monkeypatch):
    monkeypatch.setattr(refine_module, "NEAR", 0.2)  # the first try that meets it will do
    report = build(options.changed(budget=None, target_kl=0.05))
    assert report.measured_kl <= 0.05
    assert report.artifact_bytes < report.refined.rounded_bytes


def test_codes_take_turns_where_they_have_states_and_little_is_lost(options, monkeypatch):
    """And where much is, after training them without states has found nothing."""
    took = []
    monkeypatch.setattr(InTurn, "run", lambda *_: took.append("turns"))
    monkeypatch.setattr(Refiner, "_within_budget", lambda *_: took.append("codes"))
    build(options)
    assert took == ["turns"]
    build(options.changed(settings=("policy.trellis=false",)))
    assert took == ["turns", "codes"]
    monkeypatch.setattr(refine_module, "IN_TURN", 0.0)
    build(options)
    assert took == ["turns", "codes", "codes", "turns"]
