"""Tensors without a network: packed by relative error or exactly, unpacked again, never run."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import asked
from typer.testing import CliRunner

from golfpack.build.run import build
from golfpack.cli import app
from golfpack.errors import BudgetError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.inspect.inspect import inspect, unpack
from golfpack.models import FAMILIES
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.roles import block_of, guess_role
from golfpack.models.tensors import TENSORS
from golfpack.packer.format.loader import load


@pytest.fixture(scope="module")
def state():
    gen = torch.Generator().manual_seed(0)
    return {
        "emb.weight": torch.randn(60, 24, generator=gen),
        "blocks.0.att.key.weight": torch.randn(24, 24, generator=gen).bfloat16(),
        "blocks.0.ffn.value.weight": torch.randn(24, 96, generator=gen) * 1e-3,
        "blocks.0.conv": torch.randn(4, 3, 5, generator=gen),
        "scale": torch.tensor(-1e-42),  # a subnormal
        "zeros": torch.tensor([[0.0, -0.0], [0.0, 1.0]]),
        "none": torch.zeros(0),
        "no columns": torch.zeros(4, 0),
    }


@pytest.fixture
def options(state, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(safetensors.torch.save(state))
    return asked(
        tmp_path / "x.safetensors", "6bpw", tmp_path / "x.golf", data_free=True, cache=False
    )


def test_a_budget_is_kept_and_the_report_tells_the_errors(options, state, tmp_path):
    report = build(options)
    assert report.family == "tensors"
    assert any("no known model family" in note for note in report.notes)
    assert report.artifact_bytes <= 6 * sum(t.numel() for t in state.values()) / 8
    unpack(options.output, tmp_path / "back.safetensors")
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert set(back) == set(state)
    for row in report.tensors:
        w, q = state[row.name].double(), back[row.name].double()
        assert w.shape == q.shape
        if w.norm() > 0:
            assert row.rel_err == pytest.approx(
                float((w - q).norm() / w.norm()), rel=1e-5, abs=1e-9
            )
    errors = [t.rel_err for t in report.tensors if t.role != "vector" and t.name != "zeros"]
    assert max(errors) < 2 * min(errors)  # equal relative errors, whatever a tensor's scale
    again = load_checkpoint(tmp_path / "back.safetensors", fallback=TENSORS)
    assert again.family is TENSORS
    assert inspect(options.output, options.inputs.checkpoint).parameters == report.parameters


def test_lossless_is_bit_exact(options, state, tmp_path):
    report = build(options.changed(budget=None, data_free=False, lossless=True))
    assert (report.budget_bytes, report.headroom_bytes, report.calibration) == (None, None, None)
    unpack(options.output, tmp_path / "back.safetensors")
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    for name, t in state.items():
        np.testing.assert_array_equal(
            back[name].numpy().view(np.uint32), t.float().numpy().view(np.uint32)
        )
    assert report.dial == 0
    assert all(row.rel_err == 0 for row in report.tensors)
    for wrong in ({"budget": "6bpw"}, {"target_kl": 0.1}, {"recalibrate": True}):
        with pytest.raises(UsageError):
            build(options.changed(**{"budget": None, "lossless": True, **wrong}))


def test_a_file_of_no_weights_is_refused(options):
    options.inputs.checkpoint.write_bytes(safetensors.torch.save({"none": torch.zeros(0)}))
    with pytest.raises(UsageError, match="no weights"):
        build(options.changed(budget=None, lossless=True))


def test_float64_is_not_called_lossless(options, state):
    options.inputs.checkpoint.write_bytes(
        safetensors.torch.save({**state, "d": torch.ones(2).double()})
    )
    with pytest.raises(UsageError, match="'d' is float64"):
        build(options.changed(budget=None, lossless=True))


def test_the_largest_float16_comes_back_as_itself(options, tmp_path):
    """Rounding carries some of them beyond the type; none comes back as infinity."""
    signs = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).sign()
    path = options.inputs.checkpoint
    path.write_bytes(safetensors.torch.save({"w": (signs * 65504).half()}))
    build(options.changed(budget="3bpw"))
    assert (
        np.abs(load(options.output).weights()["w"]).max() > 65520
    )  # what float16 rounds to infinity
    unpack(options.output, tmp_path / "back.safetensors", dtype="source")
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")["w"]
    assert back.dtype == torch.float16
    assert bool(back.isfinite().all())
    with pytest.raises(UsageError, match=r"'w' has values up to .* beyond float16"):
        unpack(options.output, tmp_path / "b.safetensors", dtype="float16")
    assert not (tmp_path / "b.safetensors").exists()
    path.write_bytes(
        safetensors.torch.save({"w": signs.double()})
    )  # a type wider than an artifact's
    build(options.changed(force=True))
    unpack(options.output, tmp_path / "wide.safetensors", dtype="source")
    wide = safetensors.torch.load_file(tmp_path / "wide.safetensors")["w"]
    assert wide.dtype == torch.float64


def test_the_shortfall_is_to_every_float_where_that_is_less(options):
    """Constant matrices are next to nothing as floats, and quantized they have steps, too."""
    state = {"a": torch.zeros(10, 10), "b": torch.ones(5, 5)}
    options.inputs.checkpoint.write_bytes(safetensors.torch.save(state))

    def built(budget):
        return build(options.changed(budget=str(budget), blind=True, force=True))

    with pytest.raises(BudgetError, match="every float as it is takes") as refused:
        built(200)
    least = 200 + refused.value.shortfall
    assert f"raise the budget to {least}" in str(refused.value.hint)
    assert built(least).artifact_bytes == least
    with pytest.raises(BudgetError) as refused:
        built(least - 1)
    assert refused.value.shortfall == 1


def test_what_no_artifact_can_hold_is_refused_by_name(options):
    path = options.inputs.checkpoint
    for tensor, says in (
        (
            torch.full((4, 4), 1e200, dtype=torch.float64),
            r"'w' has values up to 1e\+200, beyond float32",
        ),
        (torch.zeros((2,) * 9), "'w' has 9 axes"),
    ):
        path.write_bytes(safetensors.torch.save({"w": tensor}))
        with pytest.raises(UsageError, match=says):
            build(options.changed(budget=None, lossless=True))


def test_equal_tensors_give_equal_bytes_in_any_order(options, state, tmp_path):
    first = build(options.changed(dry_run=True)).artifact_sha256
    torch.save({"state_dict": dict(reversed(state.items()))}, tmp_path / "x.pt")
    other = build(options.changed(checkpoint=tmp_path / "x.pt", dry_run=True))
    assert other.artifact_sha256 == first


def test_there_is_nothing_to_run(options, tmp_path):
    build(options)
    for path in (options.output, options.inputs.checkpoint):
        with pytest.raises(UsageError, match="without a network"):
            evaluate(EvalOptions(path, "none.bin", tmp_path / "none.model", family=TENSORS))
    with pytest.raises(UsageError, match="without a network"):
        build(options.changed(data_free=False, model="tensors"))
    with pytest.raises(BudgetError):
        build(options.changed(budget="0.01bpw"))


@pytest.mark.parametrize("how", [{"family": TENSORS}, {"fallback": TENSORS}], ids=list)
def test_a_sidecar_is_left_aside_and_a_note_says_so(options, how):
    options.inputs.checkpoint.with_suffix(".config.json").write_text('{"hidden": 3}')
    found = load_checkpoint(options.inputs.checkpoint, **how)
    assert found.config == {}
    assert [n for n in found.notes if ".config.json" in n] == [
        "the .config.json beside the checkpoint was left aside: tensors have no options"
    ]
    with pytest.raises(UsageError, match="the model has no option 'hidden'"):
        load_checkpoint(options.inputs.checkpoint, {"hidden": 3}, **how)


def test_a_family_can_be_left_aside(tiny_path, tmp_path):
    options = asked(tiny_path, "4bpw", tmp_path / "x.golf", data_free=True, cache=False)
    assert build(options.changed(dry_run=True)).family == "golf"
    assert build(options.changed(model="tensors")).family == "tensors"
    with pytest.raises(UsageError, match="family tensors, not golf"):
        inspect(options.output, family=FAMILIES["golf"])


def test_the_command_line(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for args in (
        ["build", "x.safetensors", "--lossless", "-o", "l.golf", "-q"],
        ["inspect", "x.safetensors", "--model", "tensors"],
        ["unpack", "l.golf"],
    ):
        run = CliRunner().invoke(app, args)
        assert run.exit_code == 0, run.output + str(run.exception)
    assert (tmp_path / "l.unpacked.safetensors").exists()


def test_rwkv(shared, tmp_path):
    """A network golfpack has no family for: six bits a weight, errors as reported, exact when asked."""
    source = shared / "checkpoints" / "rwkv_730K" / "tiny-rwkv-5v2-730K.fp32.safetensors"
    options = asked(source, "6bpw", tmp_path / "r.golf", data_free=True, cache=False)
    report = build(options)
    weights = safetensors.torch.load_file(source)
    assert report.parameters == sum(t.numel() for t in weights.values())
    assert 0 <= report.headroom_bytes < 0.005 * report.budget_bytes
    unpack(options.output, tmp_path / "r.safetensors")
    back = safetensors.torch.load_file(tmp_path / "r.safetensors")
    for row in report.tensors:
        w, q = weights[row.name].double(), back[row.name].double()
        assert row.rel_err == pytest.approx(float((w - q).norm() / w.norm()), rel=1e-5, abs=1e-9)
        assert row.rel_err < 0.03
    build(options.changed(budget=None, lossless=True))
    unpack(options.output, tmp_path / "r.safetensors", force=True)
    exact = safetensors.torch.load_file(tmp_path / "r.safetensors")
    assert all(torch.equal(exact[n], t) for n, t in weights.items())
    roles = {t.role for t in load_checkpoint(source, fallback=TENSORS).spec.tensors}
    assert roles == {
        "embed", "head", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "vector",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "role", "block"),
    [
        ("model.layers.3.self_attn.k_proj.weight", (8, 8), "attn_k", 3),
        ("model.layers.3.self_attn.o_proj.weight", (8, 8), "attn_out", 3),
        ("h.11.attn.c_attn.weight", (24, 8), "attn_q", 11),
        ("h.11.mlp.c_proj.weight", (8, 8), "mlp_out", 11),
        ("layers.0.feed_forward.w1.weight", (8, 8), "mlp_in", 0),
        ("transformer.wte.weight", (9, 8), "embed", None),
        ("lm_head.weight", (9, 8), "head", None),
        ("anything", (9, 8), "mlp_in", None),
        ("blocks.2.ln1.weight", (8,), "vector", 2),
        ("blocks.2.att.time_decay", (8, 1, 1), "vector", 2),
    ],
)
def test_roles_are_guessed_from_names(name, shape, role, block):
    assert (guess_role(name, shape), block_of(name)) == (role, block)


def test_an_artifact_of_tensors_carries_no_config(options):
    build(options)
    artifact = load(options.output)
    assert (artifact.family, artifact.config) == ("tensors", {})
    assert json.loads(json.dumps(artifact.container.manifest))["family"] == "tensors"
