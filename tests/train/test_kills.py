"""kill -9 at any moment: the run that goes on ends as the one that nobody disturbed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train.test_all_families import MODELS

CLOCK = {"time", "seconds", "tokens_per_second", "timing_ms", "out_dir"}
SCRIPT = Path(__file__).with_name("killed_runs.py")


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if k not in CLOCK} for x in lines if x["type"] != "resume"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def killed(folder: Path, name: str, kills: int) -> int:
    """Run and compare; how often it was killed."""
    root = SCRIPT.parents[2]
    run = subprocess.run(
        [sys.executable, SCRIPT, folder, name, str(kills)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    one, other = folder / "straight", folder / "killed"
    for file in ("final_model.pt", "best.pt"):
        assert digest(one / file) == digest(other / file)
    assert records(one) == records(other)
    mine, theirs = (torch.load(d / "last.pt", weights_only=True) for d in (one, other))
    for a, b in zip(mine["optimisers"], theirs["optimisers"], strict=True):
        for index, kept in a["state"].items():
            assert all(torch.equal(t, b["state"][index][k]) for k, t in kept.items())
    assert {p.name for p in other.iterdir()} == {
        p.name for p in one.iterdir()
    }  # nothing half written
    return int(np.load(folder / "figures.npy")[0])


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    assert killed(tmp_path / "run", "alph", 4) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_twenty_kills_in_every_family(name: str, tmp_path: Path) -> None:
    assert killed(tmp_path / "run", name, 20) >= 10
