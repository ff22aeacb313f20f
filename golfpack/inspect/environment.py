"""`golfpack env`: versions, threads, memory and devices, for a bug report."""

import os
import platform
import zlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import brotli
import threadpoolctl
import torch
import zstandard

from golfpack import __version__
from golfpack.base.documents import SCHEMA_VERSION
from golfpack.calib.cache import cache_folder

# What golfpack runs on, and what it uses where it is installed.
_PACKAGES = (
    "torch", "numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "zstandard", "brotli",
    "safetensors", "sentencepiece", "typer", "rich", "matplotlib", "h5py", "tensorboard",
    "triton", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class EnvReport:
    """What `golfpack env` found. Nothing of the user's but the cache folder's place.

    Attributes:
        golfpack: its version.
        python: implementation and version.
        platform: system, release and C library.
        packages: name -> version of what golfpack uses; None where an optional one is missing.
        libraries: versions of the compression libraries behind the codecs.
        cpu: name, architecture, logical cores, and those this process may run on.
        memory_bytes: of the machine; None where it does not say.
        threads: of torch and of the BLAS and OpenMP pools, as this process starts.
        cuda: version torch was built for (None: a CPU build), and name and bytes of each device.
        cache: folder (the home folder as ~), files and bytes in it.
    """

    golfpack: str
    python: str
    platform: str
    packages: dict[str, str | None]
    libraries: dict[str, str]
    cpu: dict[str, Any]
    memory_bytes: int | None
    threads: dict[str, Any]
    cuda: dict[str, Any]
    cache: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def environment() -> EnvReport:
    """What figures and faults may depend on besides a run's inputs: no names, no variables."""
    return EnvReport(
        golfpack=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages={name: _version(name) for name in _PACKAGES},
        libraries={
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
            "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
            "brotli": brotli.__version__,
        },
        cpu=_cpu(),
        memory_bytes=_memory(),
        threads=_threads(),
        cuda=_cuda(),
        cache=_cache(),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "name": _cpu_name(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable": usable,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _threads() -> dict[str, Any]:
    pools = threadpoolctl.threadpool_info()
    return {
        "torch": torch.get_num_threads(),
        "pools": [f"{p['internal_api']} {p['num_threads']}" for p in pools],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _cuda() -> dict[str, Any]:
    built, devices = torch.version.cuda, []
    if torch.cuda.is_available():
        found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
        devices = [{"name": d.name, "bytes": d.total_memory} for d in found]
    return {"built_for": built, "devices": devices}


def _cache() -> dict[str, Any]:
    """The folder of statistics, with the home folder as ~: whose it is, is nobody's business."""
    folder, home = cache_folder(), Path.home()
    shown = str(folder)
    if folder.is_relative_to(home):
        shown = str(Path("~") / folder.relative_to(home))
    sizes = [f.stat().st_size for f in folder.rglob("*") if f.is_file()] if folder.is_dir() else []
    return {"folder": shown, "files": len(sizes), "bytes": sum(sizes)}
