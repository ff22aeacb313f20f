"""The files of a run: `last.pt` to resume from, `train.jsonl` as its log, the final model.

Checkpoints are renamed into place, so that an interruption at any moment leaves whole files, and hold
tensors and plain values only: they load with `weights_only=True`. The log is appended to.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.base.files import make_folder, write_atomically
from golfpack.data.shards import write_shard
from golfpack.errors import CorruptError, UsageError
from golfpack.spec import ModelSpec
from golfpack.train.analyst import ARRAYS, PLOTS
from golfpack.train.config import FREE_ON_RESUME, TrainConfig
from golfpack.train.run import Run, weights_of
from golfpack.train.system_files import NO_SYSTEM, SystemFiles

# Is told every line of the log as it is written.
Listener = Callable[[Mapping[str, Any]], None]
LAST = "last.pt"
LOG = "train.jsonl"
FINAL = "final_model.pt"
SIDECAR = "final_model.config.json"
# Training tokens for the build of a run that is for an artifact: so many at most, in stretches.
CALIBRATION = "calibration.bin"
CALIBRATION_TOKENS, STRETCH = 1 << 22, 1 << 14
BEST = "best.pt"
BEST_SIDECAR = "best.config.json"
LAST_SIDECAR = "last.config.json"
# The setting of what a run is validated on: the best loss so far is of these tokens.
HELD_OUT = "val_tokens"


def settings_of(
    config: TrainConfig,
    spec: ModelSpec,
    tokens: np.ndarray,
    val_tokens: np.ndarray | None = None,
) -> dict[str, Any]:
    """What must not change between a run and its resumption, by the name a user knows it under."""
    fixed = {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE_ON_RESUME}
    model = {f"model.{name}": value for name, value in spec.config.items()}
    held_out = {} if val_tokens is None else {HELD_OUT: _digest(val_tokens)}
    return {"family": spec.family} | fixed | model | {"tokens": _digest(tokens)} | held_out


def _digest(tokens: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()
    return f"{tokens.size} tokens, sha256 {digest[:16]}"


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run.

    Attributes:
        path: the folder.
        settings: those of the run, from `settings_of`.
        writes: whether this process is the one that writes; the others only read.
        system: what the family's own system wants beside the weights.
        listeners: called with each line of the log.
    """

    path: Path
    settings: dict[str, Any]
    writes: bool = True
    system: SystemFiles = NO_SYSTEM
    listeners: Sequence[Listener] = ()

    def start(self, meta: Mapping[str, Any]) -> None:
        """Make the folder for a new run, with a log that begins with `meta`.

        Raises:
            UsageError: it holds a run already, or a model that this run would overwrite.
        """
        if not self.writes:
            return
        if held := [name for name in (LAST, FINAL) if (self.path / name).exists()]:
            raise UsageError(
                f"{self.path} already holds {held[0]}",
                "Continue it with --resume, or choose another folder.",
            )
        make_folder(self.path)
        (self.path / LOG).write_text("", encoding="utf-8")
        self.log(meta)

    @property
    def begun(self) -> bool:
        """Whether a run was started here and ended before its first checkpoint."""
        return (self.path / LOG).is_file() and not (self.path / LAST).exists()

    def save(self, run: Run) -> None:
        """Write `last.pt`: the run at this step."""
        if not self.writes:
            return
        logged = (self.path / LOG).stat().st_size
        state = run.state()
        state["model"] = self.system.with_aliases(state["model"])
        content = {"settings": self.settings, "log_bytes": logged, **self.system.told, **state}
        self._write_config(LAST_SIDECAR, self.system.options)
        _save(self.path / LAST, content)
        run.saved = run.step

    def save_best(self, run: Run) -> None:
        """Write `best.pt`: the weights that were validated at this step, the best so far."""
        if not self.writes:
            return
        weights = {name: tensor.cpu() for name, tensor in weights_of(run.result).items()}
        content = {"model": self.system.with_aliases(weights), "step": run.step}
        content |= {"best_val": run.best_val, **self.system.told}
        self._write_config(BEST_SIDECAR, self.system.options)
        _save(self.path / BEST, content)

    def save_system(self, run: Run) -> None:
        """Write the checkpoint of this step as the family's own system has it."""
        if self.writes:
            name, content = self.system.checkpoint(run)
            write_atomically(self.path / name, content)

    def resume(self, run: Run) -> None:
        """Bring `run` to where `last.pt` stands, and the log with it.

        Raises:
            UsageError: there is no run to resume, or its settings are others.
            CorruptError: `last.pt` or the log is damaged.
        """
        saved = self._load()
        _refuse_changes(saved["settings"], self.settings)
        run.restore(saved)
        run.saved = run.step
        if self.writes:
            self._cut_log(saved["log_bytes"])
            self._tidy()

    def _cut_log(self, size: int) -> None:
        """Drop what an interrupted run logged after its last save: those steps will come again."""
        log = self.path / LOG
        if not log.is_file() or log.stat().st_size < size:
            raise CorruptError(
                f"{log} has lost lines since {LAST} was written",
                "Start the run again in another folder.",
            )
        os.truncate(log, size)

    def _tidy(self) -> None:
        """Remove what an interruption left half written beside the files it was to become."""
        sidecars = (LAST_SIDECAR, SIDECAR, BEST_SIDECAR)
        for name in (LAST, FINAL, BEST, *sidecars, ARRAYS, PLOTS, self.system.pattern):
            for half in self.path.glob(f".{name}.*"):
                half.unlink()

    def _load(self) -> dict[str, Any]:
        path = self.path / LAST
        if not path.is_file():
            raise UsageError(
                f"{self.path} holds no training run to resume", "Leave out --resume to start one."
            )
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load's failures have no narrower base in common
            raise CorruptError(
                f"{path} is damaged and cannot be resumed", "Start the run again in another folder."
            ) from error
        if not isinstance(saved, dict) or "settings" not in saved:
            raise CorruptError(
                f"{path} is not from a training run", "Name the folder that train wrote with --out."
            )
        return saved

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one JSON line to the log."""
        if not self.writes:
            return
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for listener in self.listeners:
            listener(line)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(x) for x in (self.path / LOG).read_text(encoding="utf-8").splitlines()]

    def finish(self, weights: Mapping[str, torch.Tensor], model_config: Mapping[str, Any]) -> Path:
        """Write the final model, a plain state dict on the CPU, and its configuration beside it."""
        if not self.writes:
            return self.path / FINAL
        self._write_config(SIDECAR, model_config)
        _save(self.path / FINAL, {name: tensor.cpu() for name, tensor in weights.items()})
        return self.path / FINAL

    def _write_config(self, name: str, options: Mapping[str, Any]) -> None:
        text = json.dumps(dict(options), indent=2) + "\n"
        write_atomically(self.path / name, text.encode())


def write_calibration(folder: Path, tokens: np.ndarray) -> None:
    """Leave training tokens (N,) in a run's folder, evenly spread where there are many."""
    if tokens.size > CALIBRATION_TOKENS:
        starts = np.linspace(0, tokens.size - STRETCH, CALIBRATION_TOKENS // STRETCH)
        tokens = np.concatenate([tokens[s : s + STRETCH] for s in starts.astype(np.int64)])
    write_shard(folder / CALIBRATION, tokens)


def _refuse_changes(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # A run of before a setting was there had its default.
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name in wanted:
        if name == HELD_OUT and name not in saved:  # they may come later, but not be others
            continue
        before = saved.get(name, defaults.get(name))
        if before != wanted[name]:
            raise UsageError(
                f"the run was started with {name} = {before!r}, not {wanted[name]!r}",
                f"Resume with the old value of {name}, or start a new run in another folder.",
            )


def _save(path: Path, content: object) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
