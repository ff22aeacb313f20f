"""Who computes in a build: numpy, numba and torch on CPU threads, or torch in batches on a device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from golfpack.build.helpers import NO_HELP, SEQUENCES, Helpers, weights_by_name
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
        helpers: processes that take their parts of the tokens.
    """

    device: str
    batched: bool
    engine: Engine
    warning: str | None = None
    helpers: Helpers = NO_HELP

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
        self.helpers.ask(
            "calibrate", {"gradients": gradients, "seed": seed},
            {**weights_by_name(model), SEQUENCES: tokens.sequences},
        )  # fmt: skip
        return self.shared_statistics(
            model, spec, tokens, gradients=gradients, seed=seed, threads=threads, progress=progress
        )

    def shared_statistics(
        self,
        model: nn.Module,
        spec: ModelSpec,
        tokens: CalibTokens,
        *,
        gradients: bool,
        seed: int,
        threads: int,
        progress: Progress | None = None,
    ) -> CalibStats:
        """The same on every process of the group, each of which takes a part of the batches."""
        options = {
            "gradients": gradients, "seed": seed, "threads": threads, "progress": progress,
            "group": self.helpers.group,
        }  # fmt: skip
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
        """As `eval.divergence.text_losses`; on a device nothing is known before the end.

        Args:
            reference: the checkpoint's own model.
        """
        self.helpers.ask("losses", {}, {**weights_by_name(other), SEQUENCES: sequences})
        return self.shared_losses(reference, other, sequences, threads, progress)

    def shared_losses(
        self,
        reference: nn.Module,
        other: nn.Module,
        sequences: np.ndarray,
        threads: int,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """The same on every process of the group, each of which takes a part of the sequences."""
        group = self.helpers.group
        mine = group.share(len(sequences))
        part, found = sequences[mine], np.zeros((len(sequences), 2))
        if len(part) and self.batched:
            found[mine] = text_losses_on(self.device, reference, other, part)
        elif len(part):
            found[mine] = text_losses(reference, other, part, threads, progress)
        return group.sum_array(found)


def choose_backend(device: str, batched: bool | None = None, helpers: Helpers = NO_HELP) -> Backend:
    """The backend for `--device` auto, cpu or cuda, whose peak memory counts from here.

    Args:
        batched: None for what suits the device.
        helpers: processes that take their parts of the tokens, each on a device of its own.

    Raises:
        UsageError: an unknown device, or cuda without a CUDA device or without triton.
    """
    chosen = resolve_device(device)
    name = helpers.group.device if helpers.group.size > 1 else chosen.name
    watch_memory(name)
    if batched is None:
        batched = chosen.name == "cuda"
    if not batched:
        return Backend(name, False, HostEngine(), None, helpers)
    if chosen.name == "cuda" and not chosen.kernels:
        # Plain torch would launch a million tiny operations for one matrix of a few megabytes.
        warning = "without triton matrices are rounded on the CPU; pip install triton"
        return Backend(name, True, HostEngine(), warning, helpers)
    engine = TorchEngine(torch.device(name), kernel=chosen.kernels)
    return Backend(name, True, engine, None, helpers)
