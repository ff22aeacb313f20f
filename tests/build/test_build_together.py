"""Several processes build what one does: one artifact, one writer, the same size and KL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OWN_TEXT, agree, asked

from golfpack.build import losses
from golfpack.build.gradients import Gradients, backward, target_of
from golfpack.build.run import build
from golfpack.models.model import Model
from golfpack.packer.format.loader import loads

ROOT = Path(__file__).resolve().parents[2]
# What `conftest` sets for the sake of time holds in this process alone: told, or as it is elsewhere.
SURVIVORS = "round.survivors=1"


@pytest.fixture(autouse=True)
def as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much text of the model's own as the other processes write."""
    for name, value in zip(("OWN_COUNT", "OWN_LENGTH"), OWN_TEXT, strict=True):
        monkeypatch.setattr(losses, name, value)


def golfpack(folder: Path, ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, *(start if ranks > 1 else []), "-m", "golfpack", *words],
        cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def built(
    folder: Path, ranks: int, checkpoint: Path, shard: Path, **options: Any
) -> dict[str, Any]:
    """The build's report, once it is known that one process wrote one artifact."""
    out = folder / f"of{ranks}.golf"
    if ranks == 1:  # here, which saves the seconds of importing torch again
        given = {"calib": str(shard), "cache": False, "settings": (SURVIVORS,), **options}
        build(asked(checkpoint, output=out, **given))
    else:
        flags = [f"--{k.replace('_', '-')}" for k, v in options.items() if v is True]
        given = [
            w
            for k, v in options.items()
            if v is not True
            for w in (f"--{k.replace('_', '-')}", str(v))
        ]
        run = golfpack(
            folder, ranks, "build", str(checkpoint), "--calib", str(shard), "--threads", "1",
            "--no-cache", "-o", str(out), "--set", SURVIVORS, *given, *flags,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("wrote ") == 1
    assert {p.name for p in folder.glob(f"of{ranks}*")} == {out.name, f"of{ranks}.report.json"}
    report = json.loads((folder / f"of{ranks}.report.json").read_text())
    assert loads(out.read_bytes()).container.sha256 == report["artifact_sha256"]
    return report


def compare(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert other["artifact_bytes"] == pytest.approx(one["artifact_bytes"], rel=1e-3)
    assert other["measured_kl"] == pytest.approx(one["measured_kl"], rel=1e-2)
    assert other["calibration"] == one["calibration"]
    kls = [[x["kl"] for x in report["losses"]] for report in (one, other)]
    assert kls[1] == pytest.approx(kls[0], rel=2e-2)


@pytest.mark.slow
def test_two_ranks_build_what_one_does(tiny_path: Path, tiny_shard: Path, tmp_path: Path) -> None:
    """Statistics, KL and the training of codes, all on shared tokens."""
    options: dict[str, Any] = {"budget": "1.6bpw", "calib_tokens": 1024, "refine": 10000}
    found = [built(tmp_path, ranks, tiny_path, tiny_shard, **options) for ranks in (1, 2)]
    compare(*found)
    assert [x["refined"]["tokens"] for x in found] == [found[0]["refined"]["tokens"]] * 2


@pytest.mark.slow
def test_three_ranks_with_more_of_them_than_work(
    tiny_path: Path, tiny_shard: Path, tmp_path: Path
) -> None:
    """One batch of statistics, so that two ranks have none; the model's own text; measured again."""
    options: dict[str, Any] = {"budget": "3.5bpw", "calib_tokens": 512, "recalibrate": True}
    compare(*(built(tmp_path, n, tiny_path, tiny_shard, **options) for n in (1, 3)))


@pytest.mark.slow
def test_failures_and_what_is_not_shared(tiny_path: Path, tiny_shard: Path, tmp_path: Path) -> None:
    words = ("--calib", str(tiny_shard), "--calib-tokens", "512", "--threads", "1")
    run = golfpack(tmp_path, 2, "build", str(tiny_path), "--budget", "900", *words)
    assert run.returncode != 0
    assert run.stderr.count("error: ") == 1
    run = golfpack(tmp_path, 2, "plan", str(tiny_path), *words)
    assert run.returncode != 0
    assert "each of them would do all of this" in run.stderr
    assert not list(tmp_path.glob("*.golf"))


def test_parts_of_a_batch_add_up_to_it(tiny: Model) -> None:
    """What helpers compute of the sequences 0 to 2 and 3 to 4 is the whole batch's gradient."""
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 16)))
    rng = np.random.default_rng(1)
    other = {n: w + 0.02 * rng.standard_normal(w.shape).astype(np.float32)
             for n, w in tiny.weights.items()}  # fmt: skip
    trained = {n: torch.from_numpy(other[n]) for n in ("blocks.0.mlp.fc.weight", "tok_emb.weight")}
    helper = Gradients(tiny.module(), tiny.module(other), 0.1, 1, None)
    parts = [helper.of(part, trained) for part in (rows[:3], rows[3:], rows[5:])]
    student, teacher = tiny.module(other), tiny.module()
    loss, gradients = backward(student, rows, target_of(teacher, rows, 0.1), trained)
    assert float(sum(p[0] for p in parts)) == pytest.approx(loss.item(), rel=1e-5)
    for name, whole in gradients.items():
        agree(sum(p[1][name] for p in parts).numpy(), whole.numpy(), 1e-4)
