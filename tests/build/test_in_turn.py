"""Rounding in turn: every code once, within the budget, and better for what it trains on the way."""

from unittest.mock import Mock

import numpy as np
import pytest
from conftest import asked

from golfpack.build import in_turn as in_turn_module
from golfpack.build import refine as refine_module
from golfpack.build.distil import FEW_TOKENS
from golfpack.build.in_turn import GROUPS, InTurn, in_groups
from golfpack.build.refine import NOTHING_BETTER
from golfpack.build.run import build
from golfpack.packer.format.loader import load
from golfpack.packer.format.steps import F16Steps
from golfpack.packer.format.tensors import QTensor, Raw
from golfpack.packer.recipe import load_recipe
from golfpack.spec import ModelSpec, TensorSpec

SHORT = 40 * FEW_TOKENS


@pytest.fixture(autouse=True)
def in_turn(monkeypatch):
    """Few bits, of which even a short training finds something to gain on any machine."""
    monkeypatch.setattr(refine_module, "IN_TURN", 1.0)


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """A quick build of the tiny model by `rd` into tmp_path, refined."""
    return asked(
        tiny_path, "1.2bpw", tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=2048,
        cache=False, refine=SHORT,
    )  # fmt: skip


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


def test_the_kl_falls_and_the_budget_is_filled(options, tiny):
    report = build(options)
    assert report.refined is not None
    assert report.measured_kl == report.refined.kl < 0.95 * report.refined.rounded_kl
    enough = load_recipe("rd", ()).search.enough(report.budget_bytes)
    assert 0 <= report.headroom_bytes <= enough
    assert 0 < report.refined.changed < 0.9
    # Codes have states still, and errors are told against the checkpoint, not where weights moved to.
    tensors = load(options.output).tensors
    assert any(isinstance(t, QTensor) and t.trellis for _, t in tensors.values())
    for told in report.tensors:
        w = tiny.weights[told.name]
        off = np.linalg.norm(tensors[told.name][1].dequantize().reshape(w.shape) - w)
        assert told.rel_err == pytest.approx(off / np.linalg.norm(w), rel=1e-5)


def test_threads_change_no_byte(options):
    runs = [build(options.changed(threads=n)) for n in (1, 2)]
    assert runs[0].artifact_sha256 == runs[1].artifact_sha256
    assert runs[0].refined == runs[1].refined is not None


def test_noise_is_not_taken(options, monkeypatch):
    rounded = build(options.changed(refine=0))
    monkeypatch.setattr(in_turn_module, "RATE", 3.0)
    monkeypatch.setattr(in_turn_module, "WALK", 1000.0)
    report = build(options)
    assert report.artifact_sha256 == rounded.artifact_sha256
    assert report.warnings == [NOTHING_BETTER]


def test_a_budget_with_room_to_spare_stays_unfilled(options):
    """What the search leaves free because a model cannot use it, the last group does not fill."""
    rounded = build(options.changed(budget="14bpw", refine=0))
    report = build(options.changed(budget="14bpw"))
    assert report.artifact_bytes <= rounded.artifact_bytes < 0.9 * rounded.budget_bytes


def test_a_target_is_met_with_a_smaller_file(options):
    aim = options.changed(budget=None, target_kl=0.05)
    plain, trained = (build(aim.changed(refine=n)) for n in (0, SHORT))
    assert trained.measured_kl <= 0.05
    assert trained.artifact_bytes < plain.artifact_bytes


def test_codes_take_turns_where_they_have_states_and_little_is_lost(options, monkeypatch):
    """And are trained without states where much is, or where turns would leave corrections behind."""
    took = Mock(side_effect=InTurn.run)
    monkeypatch.setattr(InTurn, "run", lambda *args: took(*args))
    build(options)
    assert took.call_count == 1
    build(options.changed(settings=("policy.trellis=false",)))
    monkeypatch.setattr(refine_module, "IN_TURN", 0.0)
    build(options)
    assert took.call_count == 1
