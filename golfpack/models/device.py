"""Where torch computes: which device, how precisely, how much memory it took, how data gets there."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from golfpack.errors import UsageError
from golfpack.kernels.select import Device, DeviceName, choose_device

# What torch.compile's `mode` may be.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def resolve_device(device: str) -> Device:
    """What `--device` auto, cpu or cuda means on this machine: its name, and whether kernels run there.

    Raises:
        UsageError: another name, or cuda without a CUDA device or without triton.
    """
    return choose_device(cast(DeviceName, device))


def check_compile_mode(mode: str | None) -> None:
    """Raise UsageError unless torch.compile has such a mode, or none is asked for."""
    if mode is not None and mode not in COMPILE_MODES:
        raise UsageError(f"unknown compile mode {mode!r}", f"modes: {', '.join(COMPILE_MODES)}")


def send(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """A tensor on `device`, without waiting for what the device is still at.

    From ordinary memory such a copy would first wait for everything queued before it.
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32, not in TF32, and give the caller's setting back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with so many CPU threads, and give the caller's setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def watch_memory(device: str) -> None:
    """Start a new peak for `peak_memory_bytes`; on the CPU there is only the process's own."""
    if torch.device(device).type == "cuda":
        torch.cuda.init()  # there is nothing to reset before
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: str) -> int:
    """The most memory in use: torch's on CUDA since `watch_memory`, else the process's resident."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB, but not on macOS
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
