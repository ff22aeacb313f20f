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

_INSTALL = "install it: pip install 'golfpack[gpu]'"
_SLOW = "uses plain torch instead, several times slower"


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
    works, reason = triton_available()
    if works:
        return Device("cuda", kernels=True)
    if name == "cuda":
        raise UsageError(f"device cuda: {reason}", f"{_INSTALL}, or choose device auto or cpu")
    return Device("cuda", False, f"{reason}; golfpack {_SLOW} ({_INSTALL})")


def use_kernels(device: torch.device) -> bool:
    """Whether the kernels run on tensors of `device` unless told otherwise: on CUDA with triton."""
    return device.type == "cuda" and triton_available()[0]


def triton_available() -> tuple[bool, str]:
    """Whether triton can be imported, and if not why, in half a sentence."""
    if find_spec("triton") is None:
        return False, "triton is not installed"
    problem = _import_problem()
    return not problem, problem


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU. Read when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def _import_problem() -> str:
    try:
        import_module("triton.language")
    except Exception as e:  # a broken install raises whatever it likes
        return f"triton is installed but cannot be imported ({type(e).__name__}: {e})"
    return ""
