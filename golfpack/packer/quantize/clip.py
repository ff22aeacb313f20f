"""Clip rules: which |w| the largest code of a row stands for, when codes have a fixed bit width.

A rule is a frozen dataclass whose fields are its options; `CLIPS` is the table that recipes name them
by. Rules look at weights alone or at their sensitivity too, never at the dial: `scale` says how the
dial then moves what a rule found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from golfpack.base.convert import make, require
from golfpack.errors import UsageError
from golfpack.packer.format.steps import f16_steps, step_matrix
from golfpack.packer.quantize.gptq import round_feedback, round_nearest
from golfpack.packer.quantize.sensitivity import Sensitivity

# Below this many deviations, clipping costs more than finer steps gain.
MIN_CLIP_K = 3.0
# The percentiles that every record with a percentile search tries (2026-03-22 to 2026-04-04).
RECORD_PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)


class ClipRule(Protocol):
    """What every entry of `CLIPS` offers."""

    clip_id: ClassVar[str]
    # Whether `find` looks at the Hessian's factor, which only whole rows have.
    whole_rows: bool

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        """(rows,) float64, the clip of each row of `w` (rows, cols); codes reach +-`limit`."""
        ...

    def scale(self, dial: float) -> float:
        """What the dial multiplies clips by: larger is coarser."""
        ...


@dataclass(frozen=True)
class RowMax:
    """The row's largest |w|: nothing is clipped, and the dial only ever makes steps larger."""

    clip_id: ClassVar[str] = "rowmax"
    whole_rows: ClassVar[bool] = False

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        return row_maximum(w)

    def scale(self, dial: float) -> float:
        return max(dial, 1.0)


@dataclass(frozen=True)
class AbsMean:
    """`limit` times the row's mean |w|: the step of ternary weights (BitNet b1.58, arXiv 2402.17764)."""

    clip_id: ClassVar[str] = "absmean"
    whole_rows: ClassVar[bool] = False

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        return limit * np.abs(w.astype(np.float64)).mean(axis=1)

    def scale(self, dial: float) -> float:
        return max(dial, 1.0)


@dataclass(frozen=True)
class Deviations:
    """SDClip: `k` standard deviations of the row (record of 2026-04-05).

    Attributes:
        k: the dial scales it, down to MIN_CLIP_K.
        hessian_weight: lambda of the record of 2026-04-06, which uses 0.175. Row r's clip is
            multiplied by 1 + lambda (i_r - 1), with i_r = mean_j |W_rj| H_jj over its mean over rows.
            It needs calibration.
    """

    clip_id: ClassVar[str] = "sd"
    whole_rows: ClassVar[bool] = False
    k: float = 12.85
    hessian_weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.k > 0, f"clip sd: k is {self.k}", "choose a positive k")
        holds = 0 <= self.hessian_weight < 1
        require(holds, f"clip sd: hessian_weight is {self.hessian_weight}", "choose 0 to below 1")

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        clip = self.k * w.astype(np.float64).std(axis=1)
        if self.hessian_weight == 0:
            return clip
        importance = np.abs(w.astype(np.float64)) @ _diagonal(sensitivity, "clip sd")
        relative = importance / (importance.mean() or 1.0)
        return clip * (1 + self.hessian_weight * (relative - 1))

    def scale(self, dial: float) -> float:
        return max(dial, MIN_CLIP_K / self.k)


@dataclass(frozen=True)
class _Search:
    """Pick among candidate clips by the error each leaves; see `Percentile` and `LeastError`.

    Attributes:
        per: one candidate for the whole "matrix", or one per "row".
        objective: "plain" squared error of the weights, or "hessian": e H e^T per row, rows weighted
            by their Fisher information.
        trial: how candidates are rounded: to "nearest", or with GPTQ's "feedback".
    """

    per: Literal["matrix", "row"] = "row"
    objective: Literal["plain", "hessian"] = "hessian"
    trial: Literal["nearest", "feedback"] = "nearest"

    @property
    def whole_rows(self) -> bool:
        return self.trial == "feedback"

    def scale(self, dial: float) -> float:
        return max(dial, 1.0)

    def _pick(
        self, w: np.ndarray, clips: Iterable[np.ndarray], limit: int, sensitivity: Sensitivity
    ) -> np.ndarray:
        """(rows,) the best of `clips`, each (rows,)."""
        if self.objective == "hessian":
            _diagonal(sensitivity, f"a clip search with objective {self.objective!r}")
        best, least = np.zeros(len(w)), np.full(len(w), np.inf)
        for clip in clips:
            error = self._row_errors(w, clip, limit, sensitivity)
            if self.per == "matrix":
                error = np.full(len(w), error.sum())
            best = np.where(error < least, clip, best)
            least = np.minimum(error, least)
        return best

    def _row_errors(
        self, w: np.ndarray, clip: np.ndarray, limit: int, sensitivity: Sensitivity
    ) -> np.ndarray:
        steps = f16_steps(np.where(clip > 0, clip, 1.0) / limit)
        if self.trial == "feedback":
            if sensitivity.factor is None:
                raise UsageError("a clip search by feedback needs calibration", "drop --data-free")
            codes = round_feedback(w, steps, sensitivity.factor, limit)
        else:
            codes = round_nearest(w, steps, limit)
        e = codes * step_matrix(steps, w.shape) - w
        if self.objective == "plain":
            return np.einsum("ri,ri->r", e, e)
        assert sensitivity.hessian is not None
        return sensitivity.row_weight * np.einsum("ri,ri->r", e @ sensitivity.hessian, e)


@dataclass(frozen=True)
class Percentile(_Search):
    """The best of a few percentiles of |w| in each row, 1.0 being the row's maximum.

    The records choose one percentile per matrix by plain squared error (their texts speak of rows and
    of the Hessian; their code does neither), and so do the defaults here.
    """

    clip_id: ClassVar[str] = "percentile"
    per: Literal["matrix", "row"] = "matrix"
    objective: Literal["plain", "hessian"] = "plain"
    percentiles: tuple[float, ...] = RECORD_PERCENTILES

    def __post_init__(self) -> None:
        holds = self.percentiles and all(0 < p <= 1 for p in self.percentiles)
        what = f"clip percentile: percentiles are {list(self.percentiles)}"
        require(bool(holds), what, "give numbers above 0, at most 1")

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        clips = [row_quantile(w, p) for p in self.percentiles]
        if len(clips) == 1:
            return clips[0].astype(np.float64)
        return self._pick(w, clips, limit, sensitivity)


@dataclass(frozen=True)
class LeastError(_Search):
    """The best of evenly spread fractions of the row's maximum, by H-weighted error per row.

    Attributes:
        grid: how many fractions, from `lowest` to 1.
    """

    clip_id: ClassVar[str] = "search"
    grid: int = 24
    lowest: float = 0.25

    def __post_init__(self) -> None:
        require(2 <= self.grid <= 1000, f"clip search: grid is {self.grid}", "choose 2 to 1000")
        require(0 < self.lowest < 1, f"clip search: lowest is {self.lowest}", "choose within 0..1")

    def find(self, w: np.ndarray, limit: int, sensitivity: Sensitivity) -> np.ndarray:
        largest = row_maximum(w)
        fractions = np.linspace(1.0, self.lowest, self.grid)
        return self._pick(w, (largest * f for f in fractions), limit, sensitivity)


CLIPS: dict[str, type[Any]] = {
    c.clip_id: c for c in (RowMax, Deviations, Percentile, LeastError, AbsMean)
}


def make_clip(config: str | dict[str, Any]) -> ClipRule:
    """The rule that a recipe names by id, or by a table of id and options.

    Raises:
        UsageError: unknown id or option, or a value the rule does not take.
    """
    options = dict(config) if isinstance(config, dict) else {"id": config}
    clip_id = options.pop("id", None)
    if not isinstance(clip_id, str) or clip_id not in CLIPS:
        raise UsageError(f"unknown clip {clip_id!r}", f"known clips: {', '.join(CLIPS)}")
    return make(CLIPS[clip_id], options, f"clip {clip_id!r}")


def row_maximum(w: np.ndarray) -> np.ndarray:
    """(rows,) float64 largest |w|; 0 for rows without weights."""
    return np.abs(w).max(axis=1, initial=0.0).astype(np.float64)


def row_quantile(w: np.ndarray, q: float) -> np.ndarray:
    """(rows,) float32 quantile of |w|, interpolated in float32 as the baseline's export does it."""
    if w.shape[1] == 0:
        return np.zeros(len(w), np.float32)
    sizes = np.sort(np.abs(w.astype(np.float32)), axis=1)
    rank = np.float32(q) * np.float32(w.shape[1] - 1)
    below = int(np.floor(rank))
    low, high = sizes[:, below], sizes[:, min(below + 1, w.shape[1] - 1)]
    share = rank - np.float32(below)
    # torch.quantile interpolates from the nearer end.
    if share < 0.5:
        return low + share * (high - low)
    return high - (high - low) * (np.float32(1) - share)


def _diagonal(sensitivity: Sensitivity, what: str) -> np.ndarray:
    if sensitivity.hessian is None:
        raise UsageError(
            f"{what} needs the Hessian of a tensor that has none",
            "calibrate (drop --data-free), or give vectors a rule of their own",
        )
    return sensitivity.hessian.diagonal().astype(np.float64)
