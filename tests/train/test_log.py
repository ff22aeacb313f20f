"""What a run logs, and that the log of a resumed run is that of a straight one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golfpack.errors import UsageError
from golfpack.runlog.write import RunReportOptions, runreport
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import Progress, train

MODEL: dict[str, Any] = {
    "vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 32,
}  # fmt: skip
CONFIG = TrainConfig(
    steps=12, batch_tokens=64, seq_len=16, warmup_steps=2, log_every=2, save_every=5,
    val_every=6, sample_every=6, threads=1,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(1, 32, 2000).astype(np.uint16)
HELD_OUT = TOKENS[:200]
CLOCK = {"time", "seconds", "tokens_per_second", "timing_ms", "out_dir"}


class Letters:
    """A tokenizer of 32 pieces: a BOS, then one letter each."""

    def __init__(self, pieces: int = 32) -> None:
        self.pieces = pieces

    def vocab_size(self) -> int:
        return self.pieces

    def bos_id(self) -> int:
        return 0

    def Decode(self, tokens: list[int]) -> str:
        return "".join(chr(64 + t) for t in tokens)


def run(folder: Path, config: TrainConfig = CONFIG, **options: Any) -> list[dict[str, Any]]:
    """All records of a run."""
    about = {"argv": ["train", "--out", "run"], "sources": ["a.bin"]}
    train(
        config, MODEL, TOKENS, folder, val_tokens=HELD_OUT, tokenizer=Letters(),  # pyright: ignore
        about=about, **options,
    )  # fmt: skip
    return records(folder)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "train.jsonl").read_text().splitlines()]


def repeatable(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in x.items() if k not in CLOCK} for x in lines if x["type"] != "resume"]


class Stop(Exception):
    pass


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "straight"
    run(folder)
    return folder


def test_every_record_is_there_in_order(straight: Path) -> None:
    lines = records(straight)
    assert [(x["type"], x.get("step")) for x in lines] == [
        ("meta", None), ("step", 2), ("step", 4), ("checkpoint", 5), ("step", 6),
        *[("sample", 6)] * 3, ("step", 8), ("step", 10), ("checkpoint", 10), ("step", 12),
        *[("sample", 12)] * 3, ("checkpoint", 12), ("end", 12),
    ]  # fmt: skip
    meta = lines[0]
    assert meta["argv"] == ["train", "--out", "run"]
    assert meta["parameters"] == sum(
        t.numel() for t in torch.load(straight / "final_model.pt", weights_only=True).values()
    )
    assert meta["model"]["dim"] == 16
    assert (meta["config"]["steps"], meta["data"]["tokens"]) == (12, 2000)
    for x in (x for x in lines if x["type"] == "step"):
        timing = x["timing_ms"]
        parts = sum(ms for name, ms in timing.items() if name != "step")
        assert parts == pytest.approx(timing["step"])
        assert x["tokens_per_second"] == pytest.approx(64_000 / timing["step"])
        assert ("val_loss" in x) == (x["step"] % 6 == 0)


def test_a_resumed_run_logs_what_a_straight_one_does(straight: Path, tmp_path: Path) -> None:
    for step in (8, 11, 11):  # checkpoints were written at 5 and 10
        with pytest.raises(Stop):
            run(tmp_path, progress=stop_at(step), resume=step > 8)
    lines = run(tmp_path, resume=True)
    assert repeatable(lines) == repeatable(records(straight))
    # Those that no checkpoint followed are gone with the steps they led to.
    assert [x["step"] for x in lines if x["type"] == "resume"] == [5, 10]
    report, text = runreport(RunReportOptions(tmp_path))
    assert report.coverage.records == 6
    assert report.resumed == [5, 10]
    assert not report.warnings
    assert "| **Resumed** | from step 5, from step 10 |" in text
    # From then on every step is logged, so what went before must not count as missing.
    run(tmp_path, dataclasses.replace(CONFIG, log_every=1), resume=True)
    assert runreport(RunReportOptions(tmp_path))[0].coverage.missing is None


def test_sampling_changes_no_weight_and_repeats(straight: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(tmp_path, dataclasses.replace(CONFIG, sample_every=None, log_every=1))
    assert torch.equal(torch.get_rng_state(), before)
    one, other = (torch.load(d / "final_model.pt", weights_only=True) for d in (straight, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    samples = [x for x in records(straight) if x["type"] == "sample"]
    assert len({x["text"] for x in samples}) == len(samples)
    assert all("@" not in x["text"] for x in samples)  # a text ends where the next document begins
    assert samples[0]["options"] == {"temperature": 0.8, "top_k": 40, "tokens": 15}


def test_the_report_of_a_run(straight: Path) -> None:
    report, text = runreport(RunReportOptions(straight))
    assert (report.system, report.status) == ("golfpack", "completed")
    assert report.coverage.missing == 0
    assert report.checkpoints == [5, 10, 12]
    assert [s.step for s in report.samples] == [6, 6, 6, 12, 12, 12]
    assert report.kv_cache is not None
    assert report.kv_cache.bytes == 2 * 2 * 8 * 16 * 2
    assert report.gradients is not None
    norms = [x["grad_norm"] for x in records(straight) if x["type"] == "step"]
    assert report.gradients.percentiles["p50"] == np.percentile(norms, 50)
    assert "### From Step 12 (loss ~" in text
    _, summary = runreport(RunReportOptions(straight, form="summary"))
    assert "- Command: `golfpack train --out run`" in summary
    assert f"- Best val loss: `{report.best_val_loss:.6f}`" in summary


def test_a_step_that_fails_is_logged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the training loss is"):
        run(tmp_path, dataclasses.replace(CONFIG, embed_lr=1e37))
    error = records(tmp_path)[-1]
    assert (error["type"], error["message"][:5]) == ("error", "after")
    report, _ = runreport(RunReportOptions(tmp_path))
    assert report.status.startswith(f"failed at step {error['step']}: after")
    assert "1 training records are errors" in report.warnings[-1]


def test_a_log_of_steps_alone_is_read(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": 2.0, "grad_norm": 1.0, "tokens": 64 * s} for s in (10, 20, 25)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    report, text = runreport(RunReportOptions(tmp_path))
    assert (report.system, report.coverage.records, report.coverage.missing) == (
        "golfpack",
        3,
        None,
    )
    assert "unknown: the log does not tell one interval" in text
    assert report.warnings == ["the log has no model configuration: no KV-cache memory, no shape"]
    with pytest.raises(UsageError, match="has no Run Summary"):
        runreport(RunReportOptions(tmp_path, form="summary"))


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [(None, "needs the tokenizer"), (Letters(31), "31 pieces, BOS 0, cannot")],
)
def test_samples_need_the_models_tokenizer(tmp_path: Path, tokenizer: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        train(CONFIG, MODEL, TOKENS, tmp_path, tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())
