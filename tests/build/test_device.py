"""--device: what it means, and that working a device's way changes no result, on the CPU."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import asked

from golfpack.build import backend
from golfpack.build.backend import choose_backend
from golfpack.build.run import build
from golfpack.errors import UsageError
from golfpack.eval.divergence import text_losses, text_losses_on
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Stream, Windowed
from golfpack.eval.scorer import Scorer
from golfpack.kernels.select import Device
from golfpack.models.device import check_compile_mode, peak_memory_bytes, send
from golfpack.models.ranks import ALONE
from golfpack.packer.engine import HostEngine
from golfpack.packer.format.loader import load
from golfpack.train import trainer
from golfpack.train.choose import TrainOptions
from golfpack.train.config import TrainConfig
from golfpack.train.objective import Objective
from golfpack.train.run import Run, new_run
from golfpack.train.sources import DataOptions
from golfpack.train.train import train

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@on_a_cpu
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(tiny_path, tiny_shard, tmp_path):
    assert choose_backend("auto").device == "cpu"
    assert (
        choose_backend("auto").key == choose_backend("cpu").key != choose_backend("cpu", True).key
    )
    for device, message in (("cuda", "no CUDA device"), ("gpu", "unknown device 'gpu'")):
        options = asked(tiny_path, "20000", tmp_path / "x.golf", device=device)
        with pytest.raises(UsageError, match=message) as caught:
            build(options)
        assert caught.value.hint
    data = DataOptions(tokens=str(tiny_shard))
    with pytest.raises(UsageError, match="no CUDA device"):
        train(TrainOptions(tmp_path / "run", data=data, device="cuda"))
    assert not list(tmp_path.glob("*.golf"))
    assert not (tmp_path / "run").exists()


def test_without_triton_a_gpu_does_not_round(monkeypatch):
    monkeypatch.setattr(backend, "watch_memory", lambda device: None)
    monkeypatch.setattr(
        backend, "resolve_device", lambda d: Device("cuda", kernels=False, note="-")
    )
    chosen = choose_backend("auto")
    assert isinstance(chosen.engine, HostEngine)
    assert chosen.warning is not None
    assert "triton" in chosen.warning
    assert choose_backend("auto").key == "batched cuda"


def test_memory_and_transfers(tiny_path):
    assert peak_memory_bytes("cpu") > 10_000_000
    tensor = torch.arange(3)
    assert torch.equal(send(tensor, "cpu"), tensor)
    with pytest.raises(UsageError, match="unknown compile mode 'fast'"):
        check_compile_mode("fast")


def test_a_build_in_batches_is_the_same_build(tiny_path, tiny_shard, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLFPACK_CACHE", str(tmp_path / "cache"))
    plain = asked(
        tiny_path, "20000", tmp_path / "plain.golf", calib=str(tiny_shard), calib_tokens=2048,
        settings=("search.in_sequence=false",),
    )  # fmt: skip
    one = build(plain)
    two = build(plain.changed(output=tmp_path / "batched.golf", device="cpu", batched=True))
    assert (
        len(list((tmp_path / "cache").glob("calib-*"))) == 2
    )  # neither took the other's statistics
    assert one.measured_kl is not None
    assert two.measured_kl == pytest.approx(one.measured_kl, rel=0.02)
    assert two.predicted_kl == pytest.approx(one.predicted_kl, rel=0.02)
    assert two.artifact_bytes <= 20_000
    assert (two.device, one.device) == ("cpu", "cpu")
    assert min(one.peak_memory_bytes, two.peak_memory_bytes) > 0
    ours, theirs = (load(tmp_path / f"{n}.golf").weights() for n in ("plain", "batched"))
    for name, w in ours.items():  # steps may fall on the other side of a grain here and there
        assert np.mean(w != theirs[name]) < 0.2, name


def test_text_the_model_writes_is_the_same(tiny_path, tmp_path):
    options = asked(
        tiny_path, "20000", tmp_path / "x.golf", calib_tokens=128, cache=False, dry_run=True
    )
    one, two = build(options), build(options.changed(batched=True))
    assert one.calibration == two.calibration


def test_losses_on_a_device(tiny):
    rng = np.random.default_rng(0)
    near = {
        n: w + 0.01 * rng.standard_normal(w.shape).astype("f4") for n, w in tiny.weights.items()
    }
    models = [tiny.module(w) for w in (tiny.weights, near)]
    sequences = rng.integers(0, 256, (3, 32))
    wanted = text_losses(*models, sequences, threads=1)
    assert (wanted[:, 0] > 32e-5).all()
    np.testing.assert_allclose(text_losses_on("cpu", *models, sequences), wanted, rtol=1e-3)


def test_fetching_losses_together_changes_nothing(tiny):
    tokens = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint16)
    stream, logs = Stream.of(tokens, np.array([0, 199])), []
    for together in (1, 3, 1000):
        model = tiny.module()
        scorer = Scorer(model, tiny.spec, batch_tokens=64)
        scorer.fetch_every = together
        logs.append(ScoreLog(stream.targets))
        Windowed(32, 16).run(scorer, stream, ALONE, logs[-1])
        assert logs[-1].complete
        assert not logs[-1].refused
    for log in logs[1:]:
        np.testing.assert_array_equal(log.nll, logs[0].nll)
        np.testing.assert_array_equal(log.context, logs[0].context)


def test_a_compiled_model_that_is_off_is_refused(tiny, monkeypatch):
    model = tiny.module()
    monkeypatch.setattr(torch, "compile", lambda m, mode: lambda tokens: 1.5 * m(tokens))
    with pytest.raises(UsageError, match="losses are off by"):
        Scorer(model, tiny.spec, compiled="default").warm_up(16)
    monkeypatch.setattr(torch, "compile", lambda m, mode: m)
    Scorer(model, tiny.spec, compiled="max-autotune").warm_up(16)


MODEL = {
    "vocab_size": 16,
    "num_layers": 1,
    "dim": 8,
    "num_heads": 2,
    "num_kv_heads": 1,
    "mlp_hidden": 8,
}
CONFIG = TrainConfig(steps=11, batch_tokens=32, seq_len=8, log_every=4, save_every=5, threads=1)
TOKENS = np.random.default_rng(0).integers(0, 16, 600).astype(np.uint16)


def lazily(family, spec, config, tokens, group) -> Run:
    run = new_run(family, spec, config, tokens, group)
    run.lazy = True
    return run


def logged(folder):
    """What the log says of steps, but for clocks."""
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    keys = ("step", "loss", "lr", "grad_norm", "tokens", "val_loss")
    return [[line.get(key) for key in keys] for line in lines if "grad_norm" in line]


def test_lazy_losses_end_in_the_same_log_and_weights(tmp_path, monkeypatch):
    eager = trainer.train(CONFIG, MODEL, TOKENS, tmp_path / "eager", val_tokens=TOKENS[:50])
    monkeypatch.setattr(trainer, "new_run", lazily)
    lazy = trainer.train(CONFIG, MODEL, TOKENS, tmp_path / "lazy", val_tokens=TOKENS[:50])
    assert (lazy.final_loss, lazy.val_loss) == (eager.final_loss, eager.val_loss)
    assert logged(tmp_path / "lazy") == logged(tmp_path / "eager")
    assert [line[0] for line in logged(tmp_path / "lazy")] == [4, 8, 11]
    weights = [torch.load(r.checkpoint, weights_only=True) for r in (eager, lazy)]
    assert all(torch.equal(w, weights[1][n]) for n, w in weights[0].items())


def test_a_lazy_run_never_saves_what_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "new_run", lazily)
    config = replace(CONFIG, embed_lr=1e38, log_every=100, save_every=3)
    with pytest.raises(UsageError, match=r"after [12] steps the training loss is"):
        trainer.train(config, MODEL, TOKENS, tmp_path)
    assert not (tmp_path / "last.pt").exists()
    assert not (tmp_path / "final_model.pt").exists()


def test_figures_are_read_in_order():
    model = torch.nn.Linear(1, 1)
    run = Run(model, [], None, Objective(CONFIG, model))
    run.unread = [(0, torch.tensor([2.0, 1.0])), (1, torch.tensor([4.0, 0.5]))]
    run.read()
    assert (run.loss, run.grad_norm) == (4.0, 0.5)
    assert run.running_loss == pytest.approx(0.95 * 2 + 0.05 * 4)
    run.unread = [(2, torch.tensor([1.0, 1.0])), (3, torch.tensor([math.nan, 1.0]))]
    with pytest.raises(UsageError, match="after 3 steps"):
        run.read()


def test_training_uses_the_compiled_form(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda m, mode: seen.append(mode) or m)
    config = replace(CONFIG, steps=2)
    plain = trainer.train(config, MODEL, TOKENS, tmp_path / "plain")
    compiled = replace(config, compile_mode="max-autotune")
    found = trainer.train(compiled, MODEL, TOKENS, tmp_path / "compiled")
    assert seen == ["max-autotune"]
    assert found.final_loss == plain.final_loss
    # It may come and go between resumptions.
    trainer.train(config, MODEL, TOKENS, tmp_path / "compiled", resume=True)
