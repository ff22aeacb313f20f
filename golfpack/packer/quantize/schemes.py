"""Quantisation schemes: how a tensor's step field follows from its weights and sensitivity.

A scheme is a frozen dataclass whose fields are its options; `SCHEMES` is the table that recipes name
them by. Every scheme answers to one dial: a larger dial means larger steps and fewer bytes.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from golfpack.packer.options import require
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.rawfloat import RawType, smallest_exact
from golfpack.packer.steps import LogSteps, StepField, f16_steps, log_steps

MIN_CLIP_K = 3.0
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

    def steps(self, w: np.ndarray, sensitivity: Sensitivity, dial: float) -> StepField:
        """The step field for weights `w` (rows, cols) float32 at this dial."""
        ...


@dataclass(frozen=True)
class Keep:
    """No quantisation: the floats themselves, as `dtype`, or in the narrowest type that is exact."""

    scheme_id: ClassVar[str] = "keep"
    dtype: RawType | Literal["exact"] = "f16"

    @property
    def label(self) -> str:
        return self.dtype

    @property
    def limit(self) -> None:
        return None

    def steps(self, w: np.ndarray, sensitivity: Sensitivity, dial: float) -> StepField:
        raise TypeError("a kept tensor has no steps")


def kept_type(scheme: Scheme, w: np.ndarray) -> RawType:
    """The type in which `Keep` stores `w`."""
    assert isinstance(scheme, Keep)
    return smallest_exact(w) if scheme.dtype == "exact" else scheme.dtype


@dataclass(frozen=True)
class IntN:
    """Symmetric `bits`-bit codes, one float16 step per row, clip / qmax, as the contest's records do.

    Attributes:
        bits: 2 to 8.
        clip: what |w| the largest code stands for. "rowmax": the row's maximum, nothing is clipped;
            the dial only ever makes steps larger. "sd": SDClip, clip_k standard deviations of the
            row (record of 2026-04-05); the dial scales clip_k.
        clip_k: SDClip's k. Below MIN_CLIP_K clipping costs more than finer steps gain, so the dial
            stops there.
    """

    scheme_id: ClassVar[str] = "int"
    bits: int = 6
    clip: Literal["rowmax", "sd"] = "sd"
    clip_k: float = 12.85

    def __post_init__(self) -> None:
        require(2 <= self.bits <= 8, f"scheme int: bits is {self.bits}", "choose 2 to 8")
        require(self.clip_k > 0, f"scheme int: clip_k is {self.clip_k}", "choose a positive k")

    @property
    def label(self) -> str:
        return f"int{self.bits}"

    @property
    def limit(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def steps(self, w: np.ndarray, sensitivity: Sensitivity, dial: float) -> StepField:
        w = w.astype(np.float64)
        if self.clip == "sd":
            clip = max(self.clip_k * dial, MIN_CLIP_K) * w.std(axis=1)
        else:
            clip = max(dial, 1.0) * np.abs(w).max(axis=1, initial=0.0)
        # Constant rows have no deviation and empty rows no maximum: any positive step will do.
        clip = np.where(clip > 0, clip, np.abs(w).max(axis=1, initial=0.0))
        return f16_steps(np.where(clip > 0, clip, 1.0) / self.limit)


@dataclass(frozen=True)
class RateDistortion:
    """Steps that minimise the expected KL at a given total entropy; no bit widths, no clipping.

    With H^-1 = U^T U and GPTQ feedback, the optimum is step[r, i] = dial * U_ii / sqrt(row_weight[r])
    for every weight of the network at once (reverse water-filling; WaterSIC, arXiv 2603.04956, and
    a Fisher weight per row). Exponents below the theory's temper noisy estimates: the shape within a
    tensor is tempered, then the tensor's own scale is set to its exact optimum for that shape.

    Attributes:
        row_power: the exponent of 1/row_weight; 0.5 is the theory's.
        col_power: the exponent of U_ii; 1 is the theory's.
        row_grain, col_grain: steps are rounded to multiples of this many log units (1/32 octave for
            rows, 1/16 for columns): coarser is cheaper to store and hardly matters.
    """

    scheme_id: ClassVar[str] = "rd"
    row_power: float = 0.5
    col_power: float = 1.0
    row_grain: int = 1
    col_grain: int = 1

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

    def steps(self, w: np.ndarray, sensitivity: Sensitivity, dial: float) -> LogSteps:
        weight = sensitivity.step_weight
        weight = np.maximum(weight, 1e-4 * weight.mean())
        row = (weight / weight.mean()) ** -self.row_power
        cost = weight @ np.square(row) / len(row)
        col = None
        if sensitivity.factor is not None:
            u = sensitivity.factor.diagonal()
            col = (u / u.max()) ** self.col_power
            cost *= np.mean(np.square(col / u))
        row *= dial / np.sqrt(cost)
        largest = np.abs(w / (row[:, None] if col is None else row[:, None] * col)).max(initial=0.0)
        row *= max(1.0, float(largest) / FINEST)
        return log_steps(row, col, row_grain=self.row_grain, col_grain=self.col_grain)


SCHEMES: dict[str, type[Keep] | type[IntN] | type[RateDistortion]] = {
    s.scheme_id: s for s in (Keep, IntN, RateDistortion)
}
