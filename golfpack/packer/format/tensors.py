"""The compiler's vocabulary: what a model is (to us), and what a quantized tensor is.

Nothing here knows torch or model code. A model family describes itself as a `ModelSpec`; the passes
turn its weights into one `QTensor` or `Raw` per tensor; the artifact stores those.
"""

from dataclasses import dataclass

import numpy as np

from golfpack.packer.format.rans.context_model import CodeMatrix, ScaleModel, fine_codes
from golfpack.packer.format.rawfloat import RawType, raw_to_float32
from golfpack.packer.format.steps import LogSteps, StepField, col_logs_of, spread_rows
from golfpack.packer.format.trellis import FINE, path_order, points

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
class States:
    """What codes with states depend on besides themselves, see `trellis`.

    Attributes:
        scales: the scale model that they were chosen under, and are coded with.
        fine_from: the coder's level from which they are fine; LEVELS (version 2 of the format): none is.
    """

    scales: ScaleModel
    fine_from: int = FINE


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor, seen as a matrix.

    Attributes:
        codes: (rows, cols) int32.
        steps: the step field; weight[r, i] = points[r, i] * step[r, i], plus the correction.
        correction: of low rank, or None.
        states: of codes with states; None: a code is its own point.
    """

    codes: np.ndarray
    steps: StepField
    correction: LowRank | None = None
    states: States | None = None

    @property
    def known(self) -> CodeMatrix:
        """What a decoder knows of the codes before it has them."""
        fine_from = None if self.states is None else self.states.fine_from
        return code_matrix(self.codes.shape, self.steps, fine_from)

    def points(self) -> np.ndarray:
        """What the codes stand for, in steps: (rows, cols) float32."""
        if self.states is None:
            return self.codes.astype(np.float32)
        matrix = self.known
        fine = fine_codes(matrix, self.states.scales)
        return points(self.codes, path_order(matrix.col_log), fine)

    def dequantize(self) -> np.ndarray:
        """(rows, cols) float32, the same bits wherever it runs: rounded products in this order."""
        w = self.points()
        if self.steps.col is not None:
            w *= self.steps.col
        w *= spread_rows(self.steps.row, self.steps.group, w.shape[1])
        if self.correction is not None:
            self.correction.add_to(w)
        return w


def code_matrix(
    shape: tuple[int, ...], steps: StepField, fine_from: int | None = None
) -> CodeMatrix:
    """What the coder knows of a matrix of codes.

    Args:
        shape: rows and columns.
        steps: its step field.
        fine_from: of codes with states; None of others.
    """
    rows, cols = shape
    row = steps.row_log if isinstance(steps, LogSteps) else np.zeros(rows, np.int32)
    col = col_logs_of(steps, cols)
    if fine_from is None:
        return CodeMatrix((rows, cols), row, col)
    return CodeMatrix((rows, cols), row, col, True, fine_from)


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor kept as floats, in the stored type `dtype` (see `packer.rawfloat`)."""

    values: np.ndarray
    dtype: RawType

    def dequantize(self) -> np.ndarray:
        """The values as float32, in their own shape."""
        return raw_to_float32(self.values, self.dtype)


PackedTensor = QTensor | Raw
