"""Who computes in a build: numpy, numba and torch on CPU threads, or torch in batches on a device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from golfpack.calib.device import calibrate_on
from golfpack.calib.sources import CalibTokens, self_generated
from golfpack.calib.stats import calibrate
from golfpack.eval.divergence import Progress, text_losses, text_losses_on
from golfpack.models.device import resolve_device, watch_memory
from golfpack.packer.engine import Engine, HostEngine
from golfpack.packer.torch_engine import TorchEngine
from golfpack.spec import CalibStats, ModelSpec


@dataclass(frozen=True, eq=False)
class Backend:
    """The device-dependent parts of a build.

    Attributes:
        device: "cpu" or "cuda".
        batched: torch in batches, which is the one way on CUDA; on the CPU only tests ask for it.
        engine: factors and rounds.
        warning: what this machine lacks, or None.
    """

    device: str
    batched: bool
    engine: Engine
    warning: str | None = None

    @property
    def key(self) -> str:
        """What calibration results of one and the same kind have in common."""
        return f"batched {self.device}" if self.batched else "host"

    def calibrate(
        self,
        model: nn.Module,
        spec: ModelSpec,
        tokens: CalibTokens,
        *,
        gradients: bool,
        seed: int,
        threads: int,
        progress: Progress,
    ) -> CalibStats:
        """As `calib.stats.calibrate`."""
        options = {"gradients": gradients, "seed": seed, "threads": threads, "progress": progress}
        if self.batched:
            return calibrate_on(self.device, model, spec, tokens, **options)
        return calibrate(model, spec, tokens, **options)

    def write_text(
        self, model: nn.Module, count: int, length: int, seed: int, temperature: float
    ) -> CalibTokens:
        """As `calib.sources.self_generated`; the model comes back to the CPU."""
        try:
            return self_generated(model.to(self.device), count, length, seed, temperature)
        finally:
            model.to("cpu")

    def text_losses(
        self,
        reference: nn.Module,
        other: nn.Module,
        sequences: np.ndarray,
        threads: int,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """As `eval.divergence.text_losses`; on a device nothing is known before the end."""
        if self.batched:
            return text_losses_on(self.device, reference, other, sequences)
        return text_losses(reference, other, sequences, threads, progress)


def choose_backend(device: str, batched: bool | None = None) -> Backend:
    """The backend for `--device` auto, cpu or cuda, whose peak memory counts from here.

    Args:
        batched: None for what suits the device.

    Raises:
        UsageError: an unknown device, or cuda without a CUDA device or without triton.
    """
    chosen = resolve_device(device)
    watch_memory(chosen.name)
    if batched is None:
        batched = chosen.name == "cuda"
    if not batched:
        return Backend(chosen.name, False, HostEngine())
    if chosen.name == "cuda" and not chosen.kernels:
        # Plain torch would launch a million tiny operations for one matrix of a few megabytes.
        warning = "without triton matrices are rounded on the CPU; pip install triton"
        return Backend(chosen.name, True, HostEngine(), warning)
    engine = TorchEngine(torch.device(chosen.name), kernel=chosen.kernels)
    return Backend(chosen.name, True, engine)
