"""Quantization schemes: how a tensor's step field follows from its weights and sensitivity.

A scheme is a frozen dataclass whose fields are its options; `SCHEMES` is the table that recipes name
them by. Every scheme answers to one dial: a larger dial means larger steps and fewer bytes. What does
not depend on the dial (the clips of fixed bit widths) is found once, by `find_clips`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from golfpack.base.convert import require
from golfpack.packer.format.rawfloat import RawType, smallest_exact
from golfpack.packer.format.steps import (
    BaselineEncoder,
    F16Steps,
    LogSteps,
    StepField,
    f16_steps,
    log_steps,
)
from golfpack.packer.quantize.clip import AbsMean, make_clip, row_maximum
from golfpack.packer.quantize.sensitivity import Sensitivity

# Codes grow no larger than this: as fine as float32 itself.
FINEST = 2.0**24


class Scheme(Protocol):
    """What every entry of `SCHEMES` offers."""

    scheme_id: ClassVar[str]

    @property
    def label(self) -> str:
        """Short name for tables, such as "int6"."""
        ...

    @property
    def limit(self) -> int | None:
        """Codes are clamped to [-limit, limit]; None for no clamp."""
        ...

    def find_clips(self, w: np.ndarray, sensitivity: Sensitivity) -> np.ndarray | None:
        """What `steps` needs of weights `w` (rows, cols) float32 whatever the dial: the clip of each
        row, (rows,) float64, or of each group, (rows, groups). None for schemes that do not clip.
        """
        ...

    def steps(
        self, w: np.ndarray, sensitivity: Sensitivity, dial: float, clips: np.ndarray | None
    ) -> StepField:
        """The step field at this dial. `clips` is what `find_clips` found."""
        ...


@dataclass(frozen=True)
class Keep:
    """No quantization: the floats themselves, as `dtype`, or in the narrowest type that is exact."""

    scheme_id: ClassVar[str] = "keep"
    dtype: RawType | Literal["exact"] = "f16"

    @property
    def label(self) -> str:
        return self.dtype

    @property
    def limit(self) -> None:
        return None

    def find_clips(self, w: np.ndarray, sensitivity: Sensitivity) -> None:
        return None

    def steps(
        self, w: np.ndarray, sensitivity: Sensitivity, dial: float, clips: np.ndarray | None
    ) -> StepField:
        raise TypeError("a kept tensor has no steps")


def kept_type(scheme: Scheme, w: np.ndarray) -> RawType:
    """The type in which `Keep` stores `w`."""
    assert isinstance(scheme, Keep)
    return smallest_exact(w) if scheme.dtype == "exact" else scheme.dtype


@dataclass(frozen=True)
class IntN:
    """Symmetric `bits`-bit codes with float16 steps of clip / (2^(bits - 1) - 1), as the records do.

    Attributes:
        bits: 2 to 8.
        clip: a rule of CLIPS, by id or as a table with options.
        group: this many consecutive columns of a row share a step; 0 for whole rows.
        auto: the budget's dial scales the clips; false leaves them as the rule finds them.
        floor: no step is smaller than this. The challenge's baseline has 1/127 (so that every row
            whose clip is below 1 has one and the same step), the records of 2026-03-22 to 04-01 1/31.
        baseline_rounding: round codes before the step is rounded to float16, in float32, as the
            challenge's baseline does; the decoder multiplies by the rounded step either way.
    """

    scheme_id: ClassVar[str] = "int"
    bits: int = 6
    clip: str | dict[str, Any] = "sd"
    group: int = 0
    auto: bool = True
    floor: float = 0.0
    baseline_rounding: bool = False

    def __post_init__(self) -> None:
        require(2 <= self.bits <= 8, f"scheme int: bits is {self.bits}", "choose 2 to 8")
        require(self.group >= 0, f"scheme int: group is {self.group}", "0 is whole rows")
        require(self.floor >= 0, f"scheme int: floor is {self.floor}", "choose 0 or a step")
        rule = make_clip(self.clip)
        for option, set_to in (
            ("group", self.group),
            ("baseline_rounding", self.baseline_rounding),
        ):
            if set_to:
                require(
                    not rule.whole_rows,
                    f"scheme int: {option} does not go with clips tried by feedback",
                    'use trial = "nearest"',
                )
        if self.baseline_rounding:
            require(not self.group, "scheme int: baseline_rounding is for whole rows", "group = 0")

    @property
    def label(self) -> str:
        return f"int{self.bits}" + (f"/{self.group}" if self.group else "")

    @property
    def limit(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def find_clips(self, w: np.ndarray, sensitivity: Sensitivity) -> np.ndarray:
        rule = make_clip(self.clip)
        if not w.shape[1]:
            return np.ones(len(w))  # without columns there are no groups either: whole rows
        if not self.group:
            return _usable(rule.find(w, self.limit, sensitivity), w)
        columns = [slice(i, i + self.group) for i in range(0, w.shape[1], self.group)]
        found = [
            _usable(rule.find(w[:, c], self.limit, sensitivity.columns(c)), w[:, c])
            for c in columns
        ]
        return np.stack(found, axis=1)

    def steps(
        self, w: np.ndarray, sensitivity: Sensitivity, dial: float, clips: np.ndarray | None
    ) -> F16Steps:
        assert clips is not None
        clips = clips * (make_clip(self.clip).scale(dial) if self.auto else 1.0)
        steps = np.maximum(clips / self.limit, self.floor)
        if self.baseline_rounding:
            largest = np.finfo(np.float32).max
            # A scale below the smallest step that can be stored would make codes that are far too large.
            steps = np.maximum(steps, np.finfo(np.float16).smallest_subnormal)
            clip, scale = (np.minimum(x, largest).astype(np.float32) for x in (clips, steps))
            return replace(f16_steps(scale), encoder=BaselineEncoder(clip, scale))
        return f16_steps(steps, min(self.group, w.shape[1]) or None)


def _usable(clips: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Clips above 0: a constant row has no deviation, and for an empty row any step will do."""
    clips = np.where(clips > 0, clips, row_maximum(w))
    return np.where(clips > 0, clips, 1.0)


@dataclass(frozen=True)
class Ternary:
    """Codes -1, 0 and 1, with one float16 step per group: the group's mean |w| (record of 2026-03-24).

    Attributes:
        group: this many consecutive columns of a row share a step; 0 for whole rows.
        auto: the budget's dial scales the steps.
    """

    scheme_id: ClassVar[str] = "ternary"
    group: int = 128
    auto: bool = True

    def __post_init__(self) -> None:
        require(self.group >= 0, f"scheme ternary: group is {self.group}", "0 is whole rows")

    @property
    def label(self) -> str:
        return "ternary"

    @property
    def limit(self) -> int:
        return 1

    def find_clips(self, w: np.ndarray, sensitivity: Sensitivity) -> np.ndarray:
        return self._as_int().find_clips(w, sensitivity)

    def steps(
        self, w: np.ndarray, sensitivity: Sensitivity, dial: float, clips: np.ndarray | None
    ) -> F16Steps:
        return self._as_int().steps(w, sensitivity, dial, clips)

    def _as_int(self) -> IntN:
        return IntN(2, AbsMean.clip_id, self.group, self.auto)


# Of `normalised_rows`: then s is right to twelve digits, whatever the steps.
NEWTON_STEPS = 8


@dataclass(frozen=True)
class RateDistortion:
    """Steps that minimise the expected KL at a given total entropy; no bit widths, no clipping.

    With H^-1 = U^T U and GPTQ feedback, the optimum is step[r, i] = dial * U_ii / sqrt(row_weight[r])
    for every weight of the network at once (reverse water-filling; WaterSIC, arXiv 2603.04956, and
    a Fisher weight per row). Exponents below the theory's temper noisy estimates: the shape within a
    tensor is tempered, then the tensor's own scale is set to its exact optimum for that shape.

    Where an embedding's rows are normalised, and errors take the share d of a row's power, what is left
    is scaled up, and the errors with it. They cost d / (1 - d) in place of d, and the optimum for that
    is a step 1 - d times as large. So rows of rare tokens, whose weight is small, do not drown
    (`normalised_rows`). A tied head reads the same rows as they are; its part of the weight goes along.

    Attributes:
        row_power: the exponent of 1/row_weight; 0.5 is the theory's.
        col_power: the exponent of U_ii; 1 is the theory's.
        row_grain, col_grain: steps are rounded to multiples of this many log units (1/32 octave for
            rows, 1/16 for columns): coarser is cheaper to store and hardly matters.
        trellis: codes have states (docs/format.md), where a Hessian is known: 7 to 12% less KL at the
            same size. They take the own coder.
    """

    scheme_id: ClassVar[str] = "rd"
    row_power: float = 0.5
    col_power: float = 1.0
    row_grain: int = 1
    col_grain: int = 1
    trellis: bool = False

    def __post_init__(self) -> None:
        for option in ("row_grain", "col_grain"):
            value = getattr(self, option)
            require(1 <= value <= 32, f"scheme rd: {option} is {value}", "choose 1 to 32")
        for option in ("row_power", "col_power"):
            value = getattr(self, option)
            require(0 <= value <= 2, f"scheme rd: {option} is {value}", "choose 0 to 2")

    @property
    def label(self) -> str:
        return "rd"

    @property
    def limit(self) -> None:
        return None

    def find_clips(self, w: np.ndarray, sensitivity: Sensitivity) -> None:
        return None

    def steps(
        self, w: np.ndarray, sensitivity: Sensitivity, dial: float, clips: np.ndarray | None
    ) -> LogSteps:
        weight = sensitivity.step_weight
        if len(weight):  # a golf model of one block has skip weights of no rows
            weight = np.maximum(weight, 1e-4 * weight.mean())
            row: np.ndarray = (weight / weight.mean()) ** -self.row_power
            cost = np.float64(weight @ np.square(row)) / len(row)
        else:
            row, cost = np.ones(0), np.float64(1.0)
        col: np.ndarray | None = None
        u = sensitivity.diagonal()
        if u is not None:
            shaped: np.ndarray = (u / u.max()) ** self.col_power
            col, cost = shaped, cost * np.mean(np.square(shaped / u))
        row *= dial / np.sqrt(cost)
        if sensitivity.normalised:
            row = normalised_rows(w, row, col)
        row *= max(1.0, _largest_code(w, row, col) / FINEST)
        return log_steps(row, col, row_grain=self.row_grain, col_grain=self.col_grain)


def normalised_rows(w: np.ndarray, row: np.ndarray, col: np.ndarray | None) -> np.ndarray:
    """Steps (rows,) of rows that are normalised once they are looked up.

    Of a row of the power p, errors of the power s p of uniform ones take d = s / (1 + s): s at fine
    steps, and never more than there is (Wiener). A step t in place of t0 is 1 - d = 1 / (1 + s) of it
    where s (1 + s)^2 = s0, that of t0.

    Args:
        w: (rows, cols).
        row, col: (rows,) and (cols,) steps as they are without that.
    """
    width = w.shape[1] if col is None else np.square(col).sum()
    power = np.square(w, dtype=np.float64).sum(1)
    noise = np.divide(
        np.square(row) * width / 12, power, out=np.zeros(len(row)), where=power > 0
    )  # of a row of zeros nothing is left whatever its step
    # Newton's steps come down to the root, and from here a few of them are enough.
    share = np.minimum(noise, np.cbrt(noise))
    for _ in range(NEWTON_STEPS):
        over = share * np.square(1 + share) - noise
        share -= over / ((1 + share) * (1 + 3 * share))
    return row / (1 + share)


def _largest_code(w: np.ndarray, row: np.ndarray, col: np.ndarray | None) -> float:
    """The largest |w| in steps, or a bound of it where that is no more than FINEST."""
    if not w.size:
        return 0.0
    # A bound first: a search of dials asks a hundred times, and dividing a whole network takes long.
    smallest = float(row.min()) * (1.0 if col is None else float(col.min()))
    top = max(float(w.max()), -float(w.min()))
    if top < 0.999 * FINEST * smallest:
        return top / smallest
    return float(np.abs(w / (row[:, None] if col is None else row[:, None] * col)).max())


SCHEMES: dict[str, type[Keep] | type[IntN] | type[Ternary] | type[RateDistortion]] = {
    s.scheme_id: s for s in (Keep, IntN, Ternary, RateDistortion)
}
