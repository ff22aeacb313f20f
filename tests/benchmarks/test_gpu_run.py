"""benchmarks/gpu/run.py on the CPU: every section runs, and what fails is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from golfpack.data.shards import write_shard
from golfpack.models.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(monkeypatch):
    """The script's own module and those beside it."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.gpu import checks, measure, run

    return run, checks, measure


@pytest.mark.parametrize("interpreted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_section_runs(gpu, tmp_path, capsys, monkeypatch, interpreted):
    run, checks, _ = gpu
    if not interpreted:  # the kernels' own tests have it; here it is the script that is tested
        monkeypatch.setattr(checks, "kernels_here", lambda job: False)
        quick = [name for name in run.DEFAULT if name not in ("families", "commands", "refine")]
        monkeypatch.setattr(run, "DEFAULT", tuple(quick))
        monkeypatch.setattr(run, "ALONE", ("quantize",))
    shard = tmp_path / "a_train_0.bin"
    write_shard(shard, np.random.default_rng(0).integers(0, 32, 5000))
    out = tmp_path / "r.json"
    common = ["--out", out, "--smoke", "--threads", 1, "--tokens", shard, "--minutes", 0.01]
    argv = [*common, "--model-dir", tmp_path / "m"]
    assert run.main(list(map(str, argv))) == 0
    report = json.loads(out.read_text())
    assert list(report["sections"]) == [*run.DEFAULT, *run.ALONE, *run.WITH_TOKENS]
    assert not any(s["error"] for s in report["sections"].values())
    assert len(report["sections"]["check"]["checks"]) >= 20
    assert len(report["sections"]["agree"]["checks"]) == 1
    ratios = [f for s in report["sections"].values() for f in s["figures"] if "ratio" in f]
    assert len(ratios) >= 8
    assert "GPTQ, two-sided, all matrices" in capsys.readouterr().out
    # The pieces joined are the model, as float16.
    pieces = sorted(tmp_path.glob("record36m.pt.*"))
    assert len(pieces) == report["sections"]["export"]["figures"][0]["value"] > 1
    (tmp_path / "record36m.pt").write_bytes(b"".join(p.read_bytes() for p in pieces))
    joined = load_checkpoint(tmp_path / "record36m.pt")
    trained = load_checkpoint(tmp_path / "m/final_model.pt")
    assert joined.config == trained.config
    for name, w in trained.weights.items():
        np.testing.assert_array_equal(joined.weights[name], w.astype(np.float16).astype(np.float32))


def test_what_fails_is_told_and_the_rest_runs(gpu, tmp_path, monkeypatch, capsys):
    run, checks, measure = gpu

    def broken(job, found):
        found.figure("before it broke", 1.0, "")
        raise ModuleNotFoundError("No module named 'numba'")

    monkeypatch.setattr(checks, "correctness", broken)
    out = tmp_path / "r.json"
    argv = ["--out", str(out), "--smoke", "--threads", "1", "--only"]
    assert run.main([*argv, "check,eval"]) == 1
    sections = json.loads(out.read_text())["sections"]
    assert "numba" in sections["check"]["error"]
    assert sections["check"]["figures"]
    assert sections["eval"]["error"] is None
    assert "check: 0 of 0 checks" in capsys.readouterr().out
    monkeypatch.setattr(checks, "correctness", lambda job, found: found.check("x", np.nan, 1.0))
    assert run.main([*argv, "check"]) == 1
    assert "FAILED x" in capsys.readouterr().out
    found = measure.Findings()
    found.check("y", 1.0, 1.0)
    assert found.checks[0]["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so(gpu, tmp_path, capsys):
    assert gpu[0].main(["--out", str(tmp_path / "r.json")]) == 1
    assert "--smoke" in capsys.readouterr().out
