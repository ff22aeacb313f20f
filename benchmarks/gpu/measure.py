"""What the sections of run.py share: sizes, timing, checks and figures, and facts about the machine."""

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

RECORD = {
    "vocab_size": 8192, "num_layers": 11, "dim": 512, "num_heads": 8, "num_kv_heads": 4,
    "mlp_hidden": 2048, "seq_len": 1024,
}  # fmt: skip
MEDIUM = {
    "vocab_size": 1024, "num_layers": 6, "dim": 256, "num_heads": 8, "num_kv_heads": 4,
    "mlp_hidden": 768, "seq_len": 512,
}  # fmt: skip
TINY = {
    "vocab_size": 32, "num_layers": 2, "dim": 8, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 16, "seq_len": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What run.py was asked to do.

    Attributes:
        device: "cuda", or "cpu" for a smoke run.
        smoke: tiny sizes, to see that every line runs; its times mean nothing.
        threads: of the CPU.
        out: the JSON file; exported pieces go beside it.
        tokens: glob of training shards, or None for random tokens.
        minutes: of training, in the section `model`.
        checkpoint, calib: a real checkpoint and its tokens for the sections `agree` and `refine`.
        model_dir: where `model` trains and `export` finds the result.
        pieces: which pieces `export` writes, counted from 1; all of them for ().
    """

    device: str
    smoke: bool
    threads: int
    out: Path
    tokens: str | None = None
    minutes: float = 10.0
    checkpoint: Path | None = None
    calib: str | None = None
    model_dir: Path = Path("gpu_model")
    pieces: tuple[int, ...] = ()

    @property
    def model(self) -> dict[str, Any]:
        """Config of the model that is built, scored and trained."""
        return TINY if self.smoke else RECORD

    def pick(self, full: int, smoke: int) -> int:
        """A size."""
        return smoke if self.smoke else full


@dataclass
class Findings:
    """What a section found: checks with limits, and figures, some against a straightforward form.

    Figures and failures are printed as they come, so that a run cut off still tells what it found.
    """

    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, measured: float, limit: float) -> None:
        """Passed where `measured` is at most `limit`; not a number is not."""
        passed = bool(measured <= limit)
        self.checks.append(
            {"name": name, "passed": passed, "measured": float(measured), "limit": limit}
        )
        if not passed:
            print(f"  FAILED {name}: {measured:.6g}, limit {limit:g}", flush=True)

    def figure(self, name: str, value: float, unit: str, **more: Any) -> None:
        """One figure; `more` goes to the JSON."""
        self.figures.append({"name": name, "value": float(value), "unit": unit, **more})
        line = f"  {name:44} {value:14,.4g} {unit}"
        if "ratio" in more:
            line += f"  {more['ratio']:6.2f}x {more['what']} ({more['straightforward']:,.4g})"
        print(line, flush=True)

    def versus(self, name: str, ours: float, theirs: float, what: str, **more: Any) -> None:
        """Seconds of ours and of a straightforward form in the same process."""
        self.figure(name, ours, "s", straightforward=theirs, ratio=theirs / ours, what=what, **more)

    def rates(self, name: str, tokens: int, ours: float, theirs: float, what: str) -> None:
        """The same as tokens per second."""
        self.figure(
            name, tokens / ours, "tokens/s",
            straightforward=tokens / theirs, ratio=theirs / ours, what=what,
        )  # fmt: skip


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], job: Job, repeats: int = 5, inner: int = 1) -> float:
    """Median wall seconds of `run`, after one warm-up, waiting for the device before and after.

    Args:
        inner: runs per measurement, for what takes less than a clock can tell.
    """
    repeats, inner = (1, 1) if job.smoke else (repeats, inner)
    run()
    seconds = []
    for _ in range(repeats):
        synchronise(job.device)
        began = time.perf_counter()
        for _ in range(inner):
            run()
        synchronise(job.device)
        seconds.append((time.perf_counter() - began) / inner)
    return statistics.median(seconds)


def peak_of(run: Callable[[], Any], job: Job) -> int:
    """Bytes that `run` needs on top of what is there, on CUDA; 0 on the CPU, where nobody counts."""
    if not job.device.startswith("cuda"):
        return 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def machine(device: str) -> dict[str, Any]:
    """Names, versions and clocks."""
    found: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": _version("triton"), "numba": _version("numba"), "cpu": platform.processor(),
        "system": platform.platform(),
    }  # fmt: skip
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory": properties.total_memory,
            "processors": properties.multi_processor_count,
            "nvidia_smi": _nvidia_smi(),
        }
    return found


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvidia_smi() -> str | None:
    """Clocks now and at most (MHz), power limit and driver, as nvidia-smi tells them."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,driver_version"
    asked = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return asked.stdout.strip() or None
