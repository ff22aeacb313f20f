"""`golfpack build` under torchrun: the first process builds and writes; the others help with tokens."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from torch import nn

from golfpack.base.progress import Notify, silent
from golfpack.build.backend import Backend, choose_backend
from golfpack.build.gradients import Gradients
from golfpack.build.helpers import SEQUENCES, Helpers
from golfpack.build.options import BuildOptions
from golfpack.build.prepare import read_model
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.build.run import build
from golfpack.calib.sources import CalibTokens
from golfpack.models.model import Model
from golfpack.models.ranks import joined

# Rounding a large model takes long, and nobody asks for anything meanwhile.
PATIENCE = timedelta(days=7)


def build_together(
    options: BuildOptions,
    notify: Notify = silent,
    on_failure: Callable[[FailedBuild], None] | None = None,
) -> BuildReport | None:
    """As `run.build`, in one process or in several; None in those that only helped.

    Args:
        options: what to build; threads are for all processes of a machine together.
        notify, on_failure: as for `run.build`, in the process that builds.

    Raises:
        UsageError, BudgetError, StrictError: as `run.build`. PeerError: another process failed first.
    """
    threads = max(1, options.machine.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    options = replace(options, machine=replace(options.machine, threads=threads))
    with joined(options.machine.device, PATIENCE) as group:
        helpers = Helpers(group)
        if not group.writes:
            _help(options, helpers)
            return None
        report = build(options, notify, on_failure, helpers)
        helpers.ask("end", {}, {})
        return report


def _help(options: BuildOptions, helpers: Helpers) -> None:
    """Do as the first process asks, until it has built."""
    model, _ = read_model(options)
    machine = options.machine
    backend = choose_backend(machine.device, machine.batched, helpers)
    trainer: Gradients | None = None
    while True:
        asked, arrays = helpers.group.told()
        task = asked["task"]
        if task == "end":
            return
        tokens = arrays.pop(SEQUENCES, None)
        if task == "train":
            device = backend.device if backend.batched else None
            trainer = Gradients(
                model.module(), model.module(arrays), asked["labels"], machine.threads, device
            )
        elif task == "gradients":
            assert trainer is not None
            assert tokens is not None
            weights = {name: torch.from_numpy(a) for name, a in arrays.items()}
            rows = helpers.part(torch.from_numpy(tokens))
            helpers.summed(*trainer.of(rows, weights))
        else:
            assert tokens is not None
            _look(task, backend, model, model.module(arrays), tokens, asked, machine.threads)


def _look(
    task: str,
    backend: Backend,
    model: Model,
    module: nn.Module,
    tokens: np.ndarray,
    asked: dict[str, bool | int],
    threads: int,
) -> None:
    """A part of the statistics or losses of a module on tokens (n, T)."""
    if task == "losses":
        backend.shared_losses(model.module(), module, tokens, threads)
        return
    assert task == "calibrate"
    backend.shared_statistics(
        module, model.spec, CalibTokens(tokens, ""), gradients=bool(asked["gradients"]),
        seed=int(asked["seed"]), threads=threads,
    )  # fmt: skip
