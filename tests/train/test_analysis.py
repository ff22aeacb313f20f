"""Analyses of a run: the figures against closed forms, in every family, and how a run logs them."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from train.test_all_families import (
    HELD_OUT,
    MODELS,
    TOKENS,
    Stop,
    family_of,
    settings_of,
    stop_at,
    user_file,
)

from golfpack.errors import StrictError, UsageError
from golfpack.models import FAMILIES
from golfpack.runlog.write import RunReportOptions, runreport
from golfpack.spec import ModelSpec
from golfpack.train import analyst
from golfpack.train.analysis import Analysis, analyse, effective_rank, stable_rank
from golfpack.train.run import new_run, training_of
from golfpack.train.trainer import complete_options, train

assert user_file  # a fixture
LENGTH = 12
BOTTLENECKS: dict[str, dict[str, Any]] = {
    "standard": {"attn_dim": 16, "sem_dim": 0, "geo_dim": 0, "tie_qk": False},
    "bottleneck": {"sem_dim": 0, "geo_dim": 0},
    "gqa": {"sem_dim": 0, "geo_dim": 0, "tie_qk": False, "num_kv_heads": 1},
    "decoupled": {},
    "decoupled-sum": {"score_scale": "sum"},
}


def analysed(name: str, changes: dict[str, Any], zero: str = "") -> tuple[Analysis, dict[str, Any]]:
    """Of a fresh model, larger than it begins, with the parameters that contain `zero` set to 0."""
    family = FAMILIES[name]
    spec = family.spec(complete_options(family, MODELS[name] | changes, 16))
    model = new_run(family, spec, settings_of(name)).model
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.mul_(0.0 if zero and zero in n else 10.0 if p.ndim == 2 else 1.0)
    return analyse(
        model, spec, HELD_OUT[:LENGTH], training_of(family).score_parts(spec.config)
    ), spec.config


@pytest.mark.parametrize("name", [n for n in MODELS if n != "user"])
def test_weights_of_every_family_are_causal_shares(name: str) -> None:
    found, config = analysed(name, {})
    assert len(found.layers) == config["num_layers"]
    for layer in found.layers:
        assert layer.weights.shape == (config["num_heads"], LENGTH, LENGTH)
        assert torch.allclose(layer.weights.sum(-1), torch.ones(()), atol=1e-5)
        assert not layer.weights.triu(1).any()
        assert layer.weights[:, 1:].std() > 1e-3
    assert set(found.figures) >= {
        "attn_entropy_mean", "attn_topk_mass_mean", "attn_local_mass_mean", "attn_erank_mean",
        "proj_stable_rank_mean",
    }  # fmt: skip


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("mode", BOTTLENECKS)
def test_parts_add_up_to_the_scores_that_are_used(mode: str, null: bool) -> None:
    """Whatever the factor is: the weights are the softmax of the parts' sum."""
    found, _ = analysed("bottleneck", BOTTLENECKS[mode] | {"null_attn": null})
    assert ("attn_null_mass_mean" in found.figures) == null
    for layer in found.layers:
        assert layer.weights.shape[2] == LENGTH + null
        if not mode.startswith("decoupled"):
            assert not layer.scores
            continue
        whole = layer.scores["sem"] + layer.scores["geo"]
        seen = torch.ones(LENGTH, LENGTH + null).tril(int(null)).bool()
        expected = whole.masked_fill(~seen, -math.inf).softmax(-1)
        assert torch.allclose(layer.weights, expected, atol=1e-6)
        assert (layer.scores["sem"] - layer.scores["geo"]).abs().max() > 0.01
    ratios = [v for n, v in found.figures.items() if n.endswith("_energy_ratio_mean")]
    assert len(ratios) == (2 if mode.startswith("decoupled") else 0)
    assert not ratios or sum(ratios) == pytest.approx(1.0)


def test_figures_of_uniform_attention() -> None:
    """Queries of zero attend to all they see alike: every figure has a closed form."""
    found, _ = analysed("llama", {}, zero="q_proj")
    seen = np.arange(1, LENGTH + 1)
    assert found.figures["attn_entropy_mean"] == pytest.approx(np.log(seen).mean(), rel=1e-5)
    assert found.figures["attn_topk_mass_mean"] == pytest.approx(np.minimum(1, 8 / seen).mean())
    assert found.figures["attn_local_mass_mean"] == pytest.approx(1.0)
    singular = np.linalg.svd(np.tril(np.ones((LENGTH, LENGTH))) / seen[:, None], compute_uv=False)
    p = singular / singular.sum()
    assert found.figures["attn_erank_mean"] == pytest.approx(
        np.exp(-(p * np.log(p)).sum()), rel=1e-4
    )


def test_a_null_key_takes_its_share_and_distance_counts() -> None:
    """A bottleneck with zero queries: the null key is one of t + 2; far keys are not local."""
    found, _ = analysed(
        "bottleneck", {"null_attn": True, "sem_dim": 0, "geo_dim": 0}, zero="q_proj"
    )
    seen = np.arange(2, LENGTH + 2)
    assert found.figures["attn_null_mass_mean"] == pytest.approx((1 / seen).mean(), rel=1e-5)
    family = FAMILIES["gpt2"]
    spec = family.spec(complete_options(family, MODELS["gpt2"], 64))
    model = new_run(family, spec, dataclasses.replace(settings_of("gpt2"), seq_len=64)).model
    with torch.no_grad():
        for _, p in model.named_parameters():
            p.zero_()
    found = analyse(model, spec, HELD_OUT[:64], {})
    share = np.minimum(1, 32 / np.arange(1, 65)).mean()
    assert found.figures["attn_local_mass_mean"] == pytest.approx(share)


class OneHead(torch.nn.Module):
    """Attention of a single head, written in each way: with and without an axis for it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        generator = torch.Generator().manual_seed(0)
        self.emb = torch.nn.Parameter(torch.randn(40, 8, generator=generator))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, mask = self.emb[ids], torch.ones(1, LENGTH, LENGTH, dtype=torch.bool).tril()
        if self.way == "axis":
            x = x[:, None]
            return scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0] @ self.emb.T
        if self.way == "no axis":
            return scaled_dot_product_attention(x, x, x, is_causal=True) @ self.emb.T
        if self.way == "mask":
            return scaled_dot_product_attention(x, x, x, attn_mask=mask) @ self.emb.T
        scores = (x @ x.mT / 8**0.5).masked_fill(~mask, -math.inf)
        return (scores.softmax(-1) @ x @ self.emb.T).softmax(-1)


def test_a_head_without_an_axis_of_its_own_is_seen() -> None:
    spec = ModelSpec("user", {}, ())
    tokens = np.arange(LENGTH) * 7 % 40
    found = {
        way: analyse(OneHead(way), spec, tokens, {})
        for way in ("axis", "no axis", "mask", "softmax")
    }
    for one in found.values():
        (layer,) = one.layers
        assert layer.weights.shape == (1, LENGTH, LENGTH)
        assert torch.allclose(layer.weights, found["axis"].layers[0].weights, atol=1e-5)


def test_ranks() -> None:
    eye = torch.eye(7)
    assert effective_rank(torch.linalg.svdvals(eye)).item() == pytest.approx(7.0)
    assert stable_rank(eye).item() == pytest.approx(7.0)
    assert stable_rank(torch.outer(torch.arange(1.0, 4.0), torch.ones(5))).item() == pytest.approx(
        1
    )
    assert stable_rank(torch.zeros(3, 4)).item() == 0.0
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item() == pytest.approx(1.5)


CLOCK = {"time", "seconds", "tokens_per_second", "timing_ms", "out_dir"}


def records(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    lines = [x for x in lines if x["type"] != "resume" and kind in ("", x["type"])]
    return [{k: v for k, v in x.items() if k not in CLOCK} for x in lines]


def run(folder: Path, name: str = "bottleneck", **options: Any) -> Any:
    config = settings_of(name, analyse_every=10)
    return train(
        config, MODELS[name], TOKENS, folder, family=FAMILIES[name], val_tokens=HELD_OUT, **options
    )


def test_a_run_logs_its_analyses(tmp_path: Path) -> None:
    found = run(tmp_path / "a")
    lines = records(tmp_path / "a", "analysis")
    assert [x["step"] for x in lines] == [0, 10, 20, 24]
    assert not any("error" in x for x in lines)
    assert lines[0]["attn_entropy_mean"] != lines[-1]["attn_entropy_mean"]
    with pytest.raises(Stop):
        run(tmp_path / "b", progress=stop_at(13))
    run(tmp_path / "b", resume=True)
    assert records(tmp_path / "b") == records(tmp_path / "a")
    # Looking changes nothing.
    train(settings_of("bottleneck"), MODELS["bottleneck"], TOKENS, tmp_path / "c",
          family=FAMILIES["bottleneck"])  # fmt: skip
    one, other = ((tmp_path / d / "final_model.pt").read_bytes() for d in "ac")
    assert one == other
    missing = [m for m in ("h5py", "matplotlib") if importlib.util.find_spec(m) is None]
    assert len(found.warnings) == len(missing)
    for module in missing:
        assert any(f"{module} is not installed" in w for w in found.warnings)
    for name, module in (("analysis.h5", "h5py"), ("analysis.png", "matplotlib")):
        assert (tmp_path / "a" / name).exists() == (module not in missing)


def test_the_arrays_of_a_run(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra 'analysis' is not installed")
    with pytest.raises(Stop):
        run(tmp_path / "b", progress=stop_at(13))
    run(tmp_path / "b", resume=True)
    with h5py.File(tmp_path / "b" / "analysis.h5") as file:
        assert file["meta"].attrs["family"] == "bottleneck"
        assert json.loads(file["meta"].attrs["model"])["sem_dim"] == 4
        assert set(file["analysis"]) == {f"step_{n}" for n in (0, 10, 20, 24)}
        step = file["analysis/step_24"]
        assert set(step) == {"attn", "svd", "sem_scores", "geo_scores"}
        weights = step["attn/L1/H0"]
        assert (weights.shape, weights.compression, weights.compression_opts) == (
            (16, 16),
            "gzip",
            4,
        )
        assert np.allclose(weights[:].astype(np.float32).sum(1), 1.0, atol=2e-3)
        singular = np.linalg.svd(weights[:].astype(np.float64), compute_uv=False)
        assert np.allclose(step["svd/L1/H0"][:], singular, atol=1e-2)
    assert not list((tmp_path / "b").glob(".*"))


def test_an_analysis_that_fails_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on; its log, its report and --strict say so (a run of system 002 hid 61 of them)."""
    once = analyst.analyse

    def failing(model: Any, spec: Any, tokens: Any, parts: Any) -> Any:
        if failing.calls == 1:  # type: ignore[attr-defined]
            failing.calls += 1  # type: ignore[attr-defined]
            raise RuntimeError("shape '[1, 8, 256, -1]' is invalid")
        failing.calls += 1  # type: ignore[attr-defined]
        return once(model, spec, tokens, parts)

    failing.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(analyst, "analyse", failing)
    run(tmp_path / "a")
    failed = [x for x in records(tmp_path / "a", "analysis") if "error" in x]
    assert [x["step"] for x in failed] == [10]
    report, _ = runreport(RunReportOptions(tmp_path / "a"))
    assert any("1 analysis records are errors: shape" in w for w in report.warnings)
    with pytest.raises(StrictError):
        runreport(RunReportOptions(tmp_path / "a", strict=True))


def test_a_model_without_attention_is_refused(tmp_path: Path, user_file: Path) -> None:
    config = settings_of("user", analyse_every=10)
    with pytest.raises(UsageError, match="no attention was seen"):
        train(config, {}, TOKENS, tmp_path / "a", family=family_of("user", user_file))
