"""The compiler's vocabulary: what a model is (to us), and what a quantized tensor is.

Nothing here knows torch or model code. A model family describes itself as a `ModelSpec`; the passes
turn its weights into one `QTensor` or `Raw` per tensor; the artifact stores those.
"""

from dataclasses import dataclass

import numpy as np

from golfpack.packer.format.rawfloat import RawType, raw_to_float32
from golfpack.packer.format.steps import StepField, col_logs_of, spread_rows
from golfpack.packer.format.trellis import path_order, points

# --- what calibration measured ---------------------------------------------------------------------


# --- what the passes make --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LowRank:
    """A correction A B that is added to a quantized matrix (LQER, arXiv 2402.02446, section 3).

    Attributes:
        a: codes of A transposed (rank, rows), so that a row's step is that of one rank; no corrections
            of its own, steps are `F16Steps` without column steps.
        b: codes of B (rank, cols), the same.
    """

    a: "QTensor"
    b: "QTensor"

    def add_to(self, w: np.ndarray) -> None:
        """Add A B to `w` (rows, cols) float32 in place.

        Rank one after rank one, each product rounded before it is added, so that no BLAS decides a bit.
        """
        for column, row in zip(self.a.dequantize(), self.b.dequantize(), strict=True):
            w += column[:, None] * row


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor, seen as a matrix.

    Attributes:
        codes: (rows, cols) int32.
        steps: the step field; weight[r, i] = points[r, i] * step[r, i], plus the correction.
        correction: of low rank, or None.
        trellis: whether codes have states, see `trellis`; a code else is its own point.
    """

    codes: np.ndarray
    steps: StepField
    correction: LowRank | None = None
    trellis: bool = False

    def points(self) -> np.ndarray:
        """What the codes stand for, in steps: (rows, cols) float32."""
        if not self.trellis:
            return self.codes.astype(np.float32)
        return points(self.codes, path_order(col_logs_of(self.steps, self.codes.shape[1])))

    def dequantize(self) -> np.ndarray:
        """(rows, cols) float32, the same bits wherever it runs: rounded products in this order."""
        w = self.points()
        if self.steps.col is not None:
            w *= self.steps.col
        w *= spread_rows(self.steps.row, self.steps.group, w.shape[1])
        if self.correction is not None:
            self.correction.add_to(w)
        return w


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor kept as floats, in the stored type `dtype` (see `packer.rawfloat`)."""

    values: np.ndarray
    dtype: RawType

    def dequantize(self) -> np.ndarray:
        """The values as float32, in their own shape."""
        return raw_to_float32(self.values, self.dtype)


PackedTensor = QTensor | Raw
