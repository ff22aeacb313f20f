"""Fixtures shared by all tests: a tiny golf model with its statistics, and the folder of real data."""

import atexit
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from golfpack import cli
from golfpack.build import losses
from golfpack.build.options import BuildOptions, read_options
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.data.shards import write_shard
from golfpack.kernels.select import interpreted
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import spec
from golfpack.models.model import Model
from golfpack.packer.aim import Budget
from golfpack.packer.passes import quantize
from golfpack.packer.recipe import Recipe
from golfpack.packer.search import fit_bytes, fit_kl
from golfpack.packer.state import PackState, run_passes
from golfpack.spec import CalibStats

# Before anything imports triton: its kernels run in the interpreter here, on the CPU (tests/kernels).
os.environ.setdefault("TRITON_INTERPRET", "1")

# Statistics and text of the tiny models are made once a process, and nothing lands in the user's cache.
os.environ["GOLFPACK_CACHE"] = tempfile.mkdtemp(prefix="golfpack-tests-")
atexit.register(shutil.rmtree, os.environ["GOLFPACK_CACHE"], ignore_errors=True)

# The same examples every time: a test that fails does so for everyone.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# A tiny model's codes are found as well by few sequences; hundreds of builds here would wait for more.
# How many there are by default is not what they test; tests/packer/test_listsearch.py is.
quantize._WHOLE, quantize._EACH = (4, 4), (1, 1)
# Nor is how much text a tiny model writes to be measured on: a quarter of a build, as it is by default.
OWN_TEXT = losses.OWN_COUNT, losses.OWN_LENGTH
losses.OWN_COUNT, losses.OWN_LENGTH = 4, 24

SHARED = Path(__file__).resolve().parents[2] / "shared"

TINY: dict[str, Any] = {
    "vocab_size": 256, "num_layers": 2, "dim": 48, "num_heads": 4, "num_kv_heads": 2,
    "mlp_hidden": 96, "seq_len": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and checkpoints beside the repository; skips where it is absent."""
    if not (SHARED / "checkpoints").is_dir():
        pytest.skip("needs ../shared (real checkpoints and shards), which is not beside this clone")
    return SHARED


def trained_looking(config: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Float32 weights as training leaves them: low rank plus noise, rows and columns of unequal size."""
    rng = np.random.default_rng(seed)
    weights = {}
    for t in spec(config).tensors:
        if len(t.shape) == 1 or t.role == "vector":
            weights[t.name] = 1 + 0.1 * rng.standard_normal(t.shape)
            continue
        rows, cols = t.shape
        rank = max(1, cols // 8)
        low = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, cols)) / rank**0.5
        sizes = np.exp(0.4 * rng.standard_normal((rows, 1)) + 0.3 * rng.standard_normal(cols))
        noisy = (low + 0.5 * rng.standard_normal(t.shape)) * sizes
        weights[t.name] = noisy / cols**0.5
    return {name: w.astype(np.float32) for name, w in weights.items()}


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golf checkpoint of 45,000 weights, with its config beside it."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    path.with_suffix(".config.json").write_text(json.dumps(spec(TINY).config))
    weights = trained_looking(TINY, 0)
    torch.save({name: torch.from_numpy(w) for name, w in weights.items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Model:
    """The tiny checkpoint, loaded."""
    return load_checkpoint(tiny_path)


@pytest.fixture(scope="session")
def tiny_tokens() -> CalibTokens:
    """Zipfian tokens for the tiny model, (16, 64)."""
    rng = np.random.default_rng(1)
    return CalibTokens(np.minimum(rng.zipf(1.3, (16, 64)), 255).astype(np.int64), "synthetic")


@pytest.fixture(scope="session")
def tiny_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token shard for the tiny model."""
    path = tmp_path_factory.mktemp("tokens") / "tiny_train.bin"
    rng = np.random.default_rng(2)
    write_shard(path, np.minimum(rng.zipf(1.3, 8192), 255))
    return path


@pytest.fixture(scope="session")
def tiny_stats(tiny: Model, tiny_tokens: CalibTokens) -> CalibStats:
    """Calibration of the tiny model, with gradients."""
    model = tiny.module()
    return calibrate(model, tiny.spec, tiny_tokens, gradients=True, seed=0, threads=1)


@pytest.fixture(scope="session")
def make_state(tiny: Model, tiny_stats: CalibStats) -> Callable[..., PackState]:
    """make_state(limit, **changes) -> a fresh PackState of the tiny model."""

    def make(limit: int | None = 20_000, **changes: Any) -> PackState:
        fields = {"spec": tiny.spec, "weights": tiny.weights, "stats": tiny_stats}
        return PackState(**{**fields, "limit": limit, **changes})

    return make


def agree(got: Any, expected: Any, share: float = 1e-5) -> None:
    """Assert that float32 results are equal but for rounding: to `share` of the largest expected one.

    Each CPU's matrix products round in their own way; what they differ by follows the largest terms of
    a sum, not the entry itself. Noise seen is below a tenth of the default; a wrong formula is off by
    far more.
    """
    got, expected = (np.asarray(torch.as_tensor(x).detach(), np.float64) for x in (got, expected))
    assert got.shape == expected.shape
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=share * largest)


def packed(
    recipe: Recipe, state: PackState, code: int = 0, target: float | None = None
) -> PackState:
    """A build of `state` by a recipe within the state's limit, or within a target KL."""
    ready = run_passes(recipe.prepare, state)
    if target is not None:
        return fit_kl(recipe.search, recipe.round, ready, target)
    assert state.limit is not None
    budget = Budget(state.limit + code, code)
    return fit_bytes(recipe.search, recipe.round, ready, budget)


def asked(
    checkpoint: Path, budget: str | None = None, output: Path | None = None, **options: Any
) -> BuildOptions:
    """The options of a build, by the names of the command line."""
    return read_options({"checkpoint": checkpoint, "budget": budget, "output": output, **options})


@dataclass(frozen=True)
class Run:
    returncode: object
    stdout: str
    stderr: str

    @property
    def report(self) -> dict:
        assert self.returncode == 0, self.stderr
        return json.loads(self.stdout)


@pytest.fixture
def inside(folder, monkeypatch, capsys):
    """Runs a command within this process, in the test module's own `folder`.

    It saves the seconds of importing torch again.
    """

    def run(*args: object) -> Run:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["golfpack", *map(str, args)])
        handlers = {number: signal.getsignal(number) for number in cli.ENDS}
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as e:
                cli.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        seen = capsys.readouterr()
        return Run(e.value.code, seen.out, seen.err)

    return run


@pytest.fixture(params=["plain", "kernel"])
def kernel(request: pytest.FixtureRequest) -> bool:
    """The plain twin, and Triton's kernel in the interpreter (skipped where triton is missing)."""
    if request.param == "kernel":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("needs triton: pip install -c constraints.txt triton")
        if not interpreted():
            pytest.skip("needs TRITON_INTERPRET=1")
    return request.param == "kernel"
