"""Which device, and whether Triton's kernels run on it."""

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch

from golfpack.errors import UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda")

_INSTALL = "pip install triton"


@dataclass(frozen=True)
class Device:
    """Where to run, and how.

    Attributes:
        name: "cpu" or "cuda".
        kernels: whether Triton's kernels run there.
        note: why it is not what `auto` would rather have, to be shown to the user; None otherwise.
    """

    name: Literal["cpu", "cuda"]
    kernels: bool
    note: str | None = None


def choose_device(name: DeviceName) -> Device:
    """What `--device` means on this machine.

    auto takes the GPU where torch sees one, with the kernels where triton works, and says in `note`
    what is missing. cuda wants both.

    Raises:
        UsageError: an unknown name, or cuda without a CUDA device or without triton.
    """
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}", f"devices: {', '.join(DEVICES)}")
    if name == "cpu":
        return Device("cpu", kernels=False)
    if not torch.cuda.is_available():
        if name == "cuda":
            raise UsageError(
                "device cuda: torch sees no CUDA device",
                "install a CUDA build of torch on a machine with a GPU, or choose device auto or cpu",
            )
        return Device("cpu", False, "no CUDA device, so everything runs on the CPU")
    problem = _triton_problem()
    if problem is None:
        return Device("cuda", kernels=True)
    what, remedy = problem
    if name == "cuda":
        raise UsageError(f"device cuda: {what}", f"{remedy}, or choose device auto or cpu")
    return Device("cuda", False, f"{what}, so its kernels do not run, which takes longer; {remedy}")


def use_kernels(device: torch.device) -> bool:
    """Whether the kernels run on tensors of `device` unless told otherwise: on CUDA with triton."""
    return device.type == "cuda" and triton_available()[0]


def triton_available() -> tuple[bool, str]:
    """Whether triton can run kernels on a GPU, and if not why, in half a sentence."""
    problem = _triton_problem()
    return problem is None, "" if problem is None else problem[0]


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU. Read when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _triton_problem() -> tuple[str, str] | None:
    """What is wrong with triton, and what to do about it."""
    if find_spec("triton") is None:
        return "triton is not installed", f"install it: {_INSTALL}"
    if interpreted():
        return "triton is told to interpret kernels on the CPU", "unset TRITON_INTERPRET"
    problem = _import_problem()
    if problem:
        return f"triton cannot be imported ({problem})", f"install it anew: {_INSTALL}"
    return None


@cache
def _import_problem() -> str:
    try:
        import_module("triton.language")
    except Exception as e:  # a broken install raises whatever it likes
        return f"{type(e).__name__}: {e}"
    return ""
