"""`api.build` from checkpoint to report, on the tiny model."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, asked, packed, trained_looking
from safetensors.torch import save_file

from golfpack.artifact import open_model, open_pair
from golfpack.base.documents import to_json
from golfpack.build import backend as backend_module
from golfpack.build import run as run_module
from golfpack.build.plan import plan
from golfpack.build.run import build
from golfpack.errors import BudgetError, CorruptError, StrictError, UsageError
from golfpack.inspect.inspect import inspect, unpack
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import spec
from golfpack.packer.format.container import assemble
from golfpack.packer.format.loader import load
from golfpack.packer.recipe import load_recipe
from golfpack.packer.state import PackState


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """A quick build of the tiny model into tmp_path, rounded at once: KLs are predicted of that."""
    return asked(
        tiny_path, "20000", tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=512,
        settings=("search.in_sequence=false",),
    )  # fmt: skip


# A recipe for what does not hang on it.
QUICK = {"recipe": "sdclip-brotli"}

REPORT_KEYS = {
    "artifact_bytes", "code_bytes", "budget_bytes", "headroom_bytes", "artifact_sha256",
    "predicted_kl", "measured_kl", "tensors",
}  # fmt: skip


def test_the_report_tells_the_truth_about_the_file(options, tiny, tmp_path):
    code = tmp_path / "train.py"
    code.write_bytes(b"#" * 1234)
    report = build(options.changed(code=(code, code)))
    blob = (tmp_path / "out.golf").read_bytes()
    assert report.code_bytes == 2 * 1234
    assert report.artifact_bytes == len(blob)
    assert report.headroom_bytes == 20_000 - 2468 - len(blob) >= 0
    assert report.artifact_sha256 == hashlib.sha256(blob).hexdigest()
    data = json.loads((tmp_path / "out.report.json").read_text())
    assert data == json.loads(to_json(report))
    assert set(data) >= REPORT_KEYS
    assert all(set(t) >= {"name", "bytes", "bpw", "rel_err"} for t in data["tensors"])
    assert [t["name"] for t in data["tensors"]] == [t.name for t in tiny.spec.tensors]
    assert sum(t["bytes"] for t in data["tensors"]) + data["fixed_bytes"] == len(blob)
    artifact = load(tmp_path / "out.golf")
    for row in data["tensors"]:
        w, q = tiny.weights[row["name"]], artifact.weights()[row["name"]]
        assert row["rel_err"] == pytest.approx(np.linalg.norm(q - w) / np.linalg.norm(w), rel=1e-5)
    assert 0 < data["predicted_kl"] < 20
    assert 0 < data["measured_kl"] < 20
    assert {"bytes": len(blob), "predicted_kl": data["predicted_kl"]} in data["frontier"]
    quadratic = sum(t["predicted_kl"] for t in data["tensors"])
    assert data["kl_ratio"] * quadratic == pytest.approx(data["predicted_kl"], rel=1e-6)
    assert sum(t["kl_share"] for t in data["tensors"]) == pytest.approx(1)
    assert data["calibration"]["tokens"] == 512
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.golf", "out.report.json", "train.py"]


def test_the_reloaded_model_predicts_what_the_packers_did(tiny, tiny_stats, tmp_path):
    state = PackState(tiny.spec, tiny.weights, tiny_stats, 20_000)
    state = packed(load_recipe("rd"), state)
    path = tmp_path / "x.golf"
    path.write_bytes(state.blob)
    expected = {n: t.dequantize().reshape(tiny.weights[n].shape) for n, t in state.tensors.items()}
    loaded = open_model(path)
    tokens = torch.arange(60)[None]
    one = loaded.module()(tokens)
    two = tiny.module(expected)(tokens)
    assert torch.equal(one, two)
    unpack(path, tmp_path / "x.safetensors")
    back = load_checkpoint(tmp_path / "x.safetensors")
    assert back.config == tiny.config
    assert torch.equal(back.module()(tokens), one)


@pytest.mark.parametrize("recipe", ["rd", "sdclip-brotli"])
def test_threads_change_no_byte(options, recipe):
    one = build(options.changed(recipe=recipe, dry_run=True))
    two = build(options.changed(recipe=recipe, dry_run=True, threads=2))
    assert one.artifact_sha256 == two.artifact_sha256
    assert (one.measured_kl, one.predicted_kl, one.trace) == (
        two.measured_kl, two.predicted_kl, two.trace,
    )  # fmt: skip


def test_a_tensor_without_rows_is_built_without_a_word(tmp_path, tiny_shard, recwarn):
    config = {**TINY, "num_layers": 1}  # no block to skip to: skip_weights (0, dim)
    weights = trained_looking(config, 0)
    assert not weights["skip_weights"].size
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, tmp_path / "one.pt")
    built = build(
        asked(tmp_path / "one.pt", "4bpw", calib=str(tiny_shard), calib_tokens=2048, dry_run=True)
    )
    assert [str(w.message) for w in recwarn if w.category is RuntimeWarning] == []
    assert next(t for t in built.tensors if t.name == "skip_weights").shape == (0, config["dim"])


def test_a_dry_run_writes_nothing(options, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    options = options.changed(**QUICK)
    dry = build(options.changed(dry_run=True))
    assert dry.artifact is None
    assert [p.name for p in tmp_path.iterdir()] == ["cwd"]
    wet = build(options.changed(output=None))
    assert wet.artifact == "tiny.golf"
    assert wet.artifact_sha256 == dry.artifact_sha256
    assert sorted(p.name for p in (tmp_path / "cwd").iterdir()) == ["tiny.golf", "tiny.report.json"]


def test_the_model_calibrates_itself_when_nothing_is_given(options):
    options = options.changed(calib=None, calib_tokens=64, dry_run=True, **QUICK)
    report = build(options)
    assert report.calibration is not None
    assert report.calibration["source"] == "self-generated"
    again, other = build(options), build(options.changed(seed=1))
    assert report.artifact_sha256 == again.artifact_sha256 != other.artifact_sha256


def test_without_data_nothing_is_measured(options):
    report = build(options.changed(calib=None, data_free=True, dry_run=True))
    assert (report.calibration, report.predicted_kl, report.measured_kl) == (None, None, None)
    assert 0 <= report.headroom_bytes <= 200


def test_a_cached_calibration_gives_the_same_artifact(options, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLFPACK_CACHE", str(tmp_path / "cache"))
    cached = options.changed(cache=True, dry_run=True)
    first = build(cached)
    assert len(list((tmp_path / "cache").glob("calib-*"))) == 1
    assert build(cached).artifact_sha256 == first.artifact_sha256
    assert build(options.changed(dry_run=True)).artifact_sha256 == first.artifact_sha256
    assert len(list((tmp_path / "cache").glob("calib-*"))) == 1


def test_more_bytes_lose_less_and_the_prediction_is_in_the_right_place(options):
    options = options.changed(calib_tokens=2048, dry_run=True)
    reports = [build(options.changed(budget=b)) for b in ("15kB", "25kB", "40kB")]
    losses = [r.measured_kl for r in reports]
    assert losses == sorted(losses, reverse=True)
    for r in reports:
        assert r.predicted_kl is not None
        assert r.measured_kl is not None
        assert 1 / 4 < r.predicted_kl / r.measured_kl < 4


def test_strict_refuses_a_warning_and_writes_no_artifact(options, tmp_path):
    wasteful = options.changed(recipe="sdclip-brotli", budget="100kB")
    assert build(wasteful.changed(dry_run=True)).warnings
    with pytest.raises(StrictError):
        build(wasteful.changed(strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["out.failed.report.json"]


def test_what_cannot_be_built_is_refused_before_anything_is_measured(
    options, tmp_path, monkeypatch
):
    monkeypatch.setattr(backend_module, "calibrate", lambda *a, **k: pytest.fail("too late"))
    (tmp_path / "folder").mkdir()
    bad = [
        ({"budget": "16potato"}, "not a size"),
        ({"recipe": "rdd"}, "unknown recipe"),
        ({"settings": ("search.tolrance=1",)}, "no option"),
        ({"settings": ("model.dimm=1",)}, "the model has no option"),
        ({"settings": ("search.slack",)}, "no value"),
        ({"threads": 0}, "threads is 0"),
        ({"code": (tmp_path / "none.py",)}, "--code"),
        ({"code": (tmp_path / "folder",)}, "is a folder"),
        ({"output": tmp_path / "folder"}, "cannot write"),
        ({"output": tmp_path / "none" / "x.golf"}, "cannot write"),
        ({"output": options.inputs.checkpoint}, "checkpoint itself"),
        (
            {"checkpoint": tmp_path / "none.pt", "output": options.inputs.checkpoint},
            "there is no file",
        ),
        ({"checkpoint": tmp_path / "none.pt"}, "no file"),
        ({"calib": str(tmp_path / "tiny_val.bin")}, "validation"),
        ({"calib": str(tmp_path / "none.bin")}, "none.bin"),
        ({"calib_tokens": 10_000}, "calibration asks for"),
    ]
    for changes, says in bad:
        with pytest.raises(UsageError) as e:
            build(options.changed(**changes))
        assert says in e.value.message, changes
    # Unusable calibration data is a build that failed; an option that makes no sense is none.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "out.failed.report.json"]


def test_recalibrating_measures_the_quantized_model(options):
    plain, again = build(options), build(options.changed(recalibrate=True))
    assert again.artifact_sha256 != plain.artifact_sha256
    assert again.artifact_bytes <= again.budget_bytes
    with pytest.raises(UsageError, match="calibration"):
        build(options.changed(recalibrate=True, data_free=True, calib=None))
    with pytest.raises(UsageError, match="reads no calibration"):
        options.changed(data_free=True)


RECIPE = """
calibration = "gradients"
[[pass]]
id = "policy"
rules = [{ roles = ["vector"], scheme = "keep" }, { scheme = "int", bits = 6, clip = "rowmax" }]
%s
[[pass]]
id = "sense"
[[pass]]
id = "clip"
[[pass]]
id = "steps"
[[pass]]
id = "round"
[[pass]]
id = "encode"
"""


def test_recalibrating_starts_from_the_checkpoint_again(options, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE % '[[pass]]\nid = "prune_magnitude"\nshare = 0.2')
    options = options.changed(recipe=str(recipe))
    plain, again = build(options), build(options.changed(recalibrate=True))
    assert [p["zeroed"] for p in again.pruning] == [p["zeroed"] for p in plain.pruning] != [0]
    for a, b in zip(plain.tensors, again.tensors, strict=True):
        assert a.rel_err == pytest.approx(b.rel_err, rel=0.2)


def test_recalibrating_with_column_factors(options, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE % '[[pass]]\nid = "awq"\nfold = false')
    options = options.changed(recipe=str(recipe), recalibrate=True)
    assert build(options).measured_kl is not None
    with pytest.raises(UsageError, match="folded column factors") as e:
        build(options.changed(settings=("awq.fold=true",)))
    assert "awq.fold=false" in e.value.hint


@pytest.mark.parametrize("setting", ["encode.codec=gzip", "encode.order=spiral", "sense.damp=99"])
def test_a_bad_option_is_refused_before_anything_is_measured(options, monkeypatch, setting):
    monkeypatch.setattr(backend_module, "calibrate", lambda *a, **k: pytest.fail("too late"))
    with pytest.raises(UsageError):
        build(options.changed(settings=(setting,)))


@pytest.mark.parametrize("change", [{"data_free": True}, {"recipe": "int8-zlib"}])
def test_few_bits_that_nothing_measures_are_refused_before_anything_is_built(
    options, tiny, monkeypatch, change
):
    free = options.changed(calib=None, dry_run=True, **change)
    least = 3 * tiny.spec.numel // 8  # what "3bpw" stands for
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "prepare", lambda *a: pytest.fail("too late"))
        with pytest.raises(BudgetError) as e:
            build(free.changed(budget="2.795bpw"))
    assert f"needs 2.795 bits per parameter for {tiny.spec.numel:,} parameters" in e.value.message
    assert f"raise the budget to {least:,} bytes or more" in e.value.hint
    assert "calibrate (--calib" in e.value.hint
    assert not build(free.changed(budget="3bpw")).warnings
    assert not build(options.changed(budget="2.9bpw", dry_run=True)).warnings
    (warning,) = build(free.changed(budget="2.85bpw", blind=True)).warnings
    assert "without calibration" in warning


@pytest.mark.parametrize("saved", [torch.save, save_file])
def test_a_hopeless_budget_is_refused_before_a_large_checkpoint_is_read(
    options, tiny, tmp_path, monkeypatch, saved
):
    monkeypatch.setattr("golfpack.models.files.WORTH_A_PEEK", 1)
    path = tmp_path / "large"
    saved({name: torch.from_numpy(w) for name, w in tiny.weights.items()}, path)
    numel = tiny.spec.numel
    least = numel // 16  # half a bit per weight
    large = options.changed(checkpoint=path, data_free=True, calib=None)
    with monkeypatch.context() as patch:
        patch.setattr("golfpack.models.checkpoint.read_bytes", lambda _: pytest.fail("was read"))
        for call in (
            lambda: build(large.changed(budget=str(least - 1))),
            lambda: plan(large.changed(output=None), [str(least - 1), "1MB"]),
        ):
            with pytest.raises(BudgetError) as e:
                call()
            assert f"0.500 bits per parameter for {numel:,} parameters" in e.value.message
            assert f"{least:,} bytes" in str(e.value.hint)
            assert e.value.shortfall is None
    unread = json.loads((tmp_path / "out.failed.report.json").read_text())
    assert (unread["exit_code"], unread["checkpoint_sha256"]) == (3, None)
    assert build(large.changed(budget="4bpw")).headroom_bytes >= 0


def test_code_beyond_the_budget_is_over_budget(options, tmp_path):
    code = tmp_path / "big.py"
    code.write_bytes(bytes(30_000))
    options = options.changed(**QUICK)
    with pytest.raises(BudgetError) as e:
        build(options.changed(code=(code,)))
    report = build(options.changed(code=(code,), budget=str(20_000 + e.value.shortfall)))
    assert report.headroom_bytes >= 0
    assert report.artifact_bytes + 30_000 <= 20_000 + e.value.shortfall


def test_inspect_agrees_with_the_build(options, tiny_path):
    report = build(options)
    seen = inspect(options.output, against=tiny_path)
    assert (seen.bytes, seen.sha256) == (report.artifact_bytes, report.artifact_sha256)
    assert sum(seen.streams.values()) == seen.bytes
    # What needs calibration, or the recipe.
    unknown = dict.fromkeys(
        (
            "predicted_kl",
            "kl_share",
            "bits_over_rd",
            "bits_over_two_sided",
            "hessian_err",
            "trace_h",
            "dead_columns",
            "clipped",
        )
    )
    for a, b in zip(seen.tensors, report.tensors, strict=True):
        assert a == replace(b, **unknown)
    with pytest.raises(UsageError, match="not an artifact"):
        inspect(tiny_path, against=tiny_path)
    plain = inspect(tiny_path)
    assert plain.parameters == seen.parameters == report.parameters
    assert plain.assumed == {**report.assumed}


def test_the_float_checkpoint_is_read_with_the_artifacts_config(options, tiny_path):
    build(options.changed(settings=("model.softcap=15",), **QUICK))
    packed, original = open_pair(options.output, tiny_path)
    assert original is not None
    assert original.config == packed.config
    assert packed.config["softcap"] == 15
    _, original = open_pair(options.output, tiny_path, ("model.softcap=20",))
    assert original is not None
    assert original.config == {**packed.config, "softcap": 20.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_layers": 3}, "blocks.2."),
        ({"dim": 64}, "skip_weights"),
        ({"tied": False}, "lm_head"),
    ],
    ids=str,
)
def test_the_wrong_float_checkpoint_is_refused(options, tiny, tmp_path, change, says):
    build(options.changed(**QUICK))
    path = tmp_path / "other.pt"
    config = {**tiny.config, **change}
    weights = {t.name: torch.ones(t.shape) for t in spec(config).tensors}
    torch.save(weights, path)
    with pytest.raises(UsageError, match="not of the artifact's model") as e:
        inspect(options.output, against=path)
    assert says in e.value.message


@pytest.mark.parametrize(
    "config",
    [
        {"dim": 10**12}, {"num_layers": 10**7}, {"passes": 10**9}, {"dim": "48"}, {"dim": -1},
        {"new": 1}, {"vocab_size": 255}, {"activation": 3}, {"vocab_size": 10**30},
        {"softcap": None}, {"num_layers": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_artifact_whose_config_lies_is_corrupt(tiny, tiny_stats, tmp_path, config):
    state = PackState(tiny.spec, tiny.weights, tiny_stats, 10**6)
    blob = packed(load_recipe("int8-zlib"), state).blob
    assert blob is not None
    path = tmp_path / "liar.golf"
    path.write_bytes(blob)
    container = load(path).container
    lied = {k: v for k, v in {**tiny.config, **config}.items() if v is not None}
    manifest = {**container.manifest, "config": lied}
    path.write_bytes(assemble(manifest, container.streams))
    for opening in (open_model, inspect):
        with pytest.raises(CorruptError):
            opening(path)
    with pytest.raises(CorruptError):
        unpack(path, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
