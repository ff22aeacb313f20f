"""A run's analyses: records of its log, `analysis.h5` with the arrays behind them, `analysis.png`.

The file has attributes of the run at /meta, and under /analysis/step_N the groups attn (weights,
float16), svd (their singular values) and, where scores have parts, NAME_scores, each with a data set
L{layer}/H{head}, gzip at 4. h5py writes it and matplotlib draws the plots; without one of them that file
is left out, and the run says so.
"""

import importlib.util
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.spec import ModelSpec
from golfpack.train.analysis import TOKENS, Analysis, analyse
from golfpack.train.run import training_of

ARRAYS = "analysis.h5"
PLOTS = "analysis.png"
_NEEDS = {ARRAYS: ("h5py", "analysis"), PLOTS: ("matplotlib", "plots")}
GZIP = 4


def left_out() -> list[str]:
    """Of the files of an analysis, what this installation cannot write, in words."""
    return [
        f"{name} is left out: {module} is not installed (pip install '.[{extra}]')"
        for name, (module, extra) in _NEEDS.items()
        if importlib.util.find_spec(module) is None
    ]


@dataclass(frozen=True, eq=False)
class Analyst:
    """Looks at the same tokens of a run again and again.

    Attributes:
        tokens: (T,) from held-out text, or from the training's where there is none.
        parts: of the family's scores, see `analyse`.
        folder: of the run.
    """

    spec: ModelSpec
    tokens: np.ndarray
    parts: Mapping[str, int]
    folder: Path

    @staticmethod
    def of(
        family: Family, spec: ModelSpec, tokens: np.ndarray, seq_len: int, folder: Path
    ) -> "Analyst":
        parts = training_of(family).score_parts(spec.config)
        return Analyst(spec, tokens[: min(TOKENS, seq_len)], parts, folder)

    def first(self, model: nn.Module, step: int) -> dict[str, Any]:
        """The record before anything is learnt. Raises UsageError where nothing can be seen."""
        return self._record(analyse(model, self.spec, self.tokens, self.parts), step)

    def record(self, model: nn.Module, step: int) -> dict[str, Any]:
        """The record of a step; one that says what went wrong, if something does: the run goes on."""
        try:
            return self._record(analyse(model, self.spec, self.tokens, self.parts), step)
        except (UsageError, RuntimeError, OSError) as error:  # torch.linalg's are RuntimeErrors
            return {"type": "analysis", "step": step, "error": str(error)}

    def _record(self, found: Analysis, step: int) -> dict[str, Any]:
        if importlib.util.find_spec("h5py") is not None:
            self._store(found, step)
        return {"type": "analysis", "step": step, **found.figures}

    def _store(self, found: Analysis, step: int) -> None:
        """Add a step to the file: to a copy of it, renamed into its place."""
        import h5py  # pyright: ignore[reportMissingImports]

        path = self.folder / ARRAYS
        half = self.folder / f".{ARRAYS}.half"
        if path.exists():
            shutil.copyfile(path, half)
        else:
            half.unlink(missing_ok=True)
        with h5py.File(half, "a") as file:
            meta = file.require_group("meta")
            meta.attrs["family"], meta.attrs["model"] = (
                self.spec.family,
                json.dumps(self.spec.config),
            )
            meta.attrs["tokens"] = self.tokens
            name = f"analysis/step_{step}"
            if name in file:  # of the time before an interruption
                del file[name]
            for kind, arrays in _arrays(found).items():
                for layer, of_heads in enumerate(arrays):
                    for head, array in enumerate(of_heads):
                        where = f"{name}/{kind}/L{layer}/H{head}"
                        file.create_dataset(
                            where, data=array, compression="gzip", compression_opts=GZIP
                        )
        os.replace(half, path)

    def draw(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the plots of a run's log, where matplotlib is installed."""
        if importlib.util.find_spec("matplotlib") is not None:
            from golfpack.base.files import write_atomically

            write_atomically(self.folder / PLOTS, _plots(lines))


def _arrays(found: Analysis) -> dict[str, list[np.ndarray]]:
    kinds = {
        "attn": [_half(layer.weights) for layer in found.layers],
        "svd": [s.cpu().numpy() for s in found.singular],
    }
    names = found.layers[0].scores
    return kinds | {
        f"{name}_scores": [_half(layer.scores[name]) for layer in found.layers] for name in names
    }


def _half(array: torch.Tensor) -> np.ndarray:
    return array.cpu().numpy().astype(np.float16)


# Title of each plot, and the fields of the log's records in it.
_PLOTS = {
    "training loss": ("step", ("loss",)),
    "validation loss": ("step", ("val_loss",)),
    "tokens per second": ("step", ("tokens_per_second",)),
    "attention entropy": ("analysis", ("attn_entropy_mean",)),
    "effective rank": ("analysis", ("attn_erank_mean", "proj_stable_rank_mean")),
    "shares": (
        "analysis",
        (
            "attn_topk_mass_mean",
            "attn_local_mass_mean",
            "attn_null_mass_mean",
            "sem_energy_ratio_mean",
        ),
    ),
}


def _plots(lines: Sequence[Mapping[str, Any]]) -> bytes:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.subplots(3, 2).ravel()
    for axis, (title, (kind, names)) in zip(axes, _PLOTS.items(), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        for name in names:
            of_kind = [x for x in lines if x.get("type") == kind and name in x]
            if of_kind:
                marker = "o" if len(of_kind) < 50 else None
                steps = [x["step"] for x in of_kind]
                axis.plot(
                    steps, [x[name] for x in of_kind], marker=marker, markersize=3, label=name
                )
        if len(names) > 1 and axis.lines:
            axis.legend(fontsize="x-small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
