"""The scale model of a code matrix: which table each code is coded with, and around which mean.

Given its standard deviation, a code is as good as Gaussian, and standard deviations are separable:
those of code (i, j) are a row factor times a column factor. Quantization steps already tell most of
both, as a weight of usual size over a large step is a small code. So the level of a code is

    level[i, j] = (4 offset + 2 - [use_row] row_log[i] - [use_col] 2 col_log[j]
                   + 8 row_class[i] + 8 col_class[j]) >> 2,  clipped to 0..183

with the logs known to the decoder, and small integers for the rest, a few hundred bytes a megabyte.
What is coded is the code less mean[i, j] = (row_mean[i] col_mean[j] + 16) >> 5, which is zero but in
embeddings: tokens that never occurred in training have moved together.

No code's level or mean depends on another code, so decoding is parallel however one likes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golfpack.errors import UsageError
from golfpack.packer.format.rans.tables import LEVELS
from golfpack.packer.format.trellis import path_order

SPREAD_STEPS = (3, 3, 6, 6)  # levels per spread of row class, column class, row mean, column mean
OFFSET_BITS = 13  # signed; 14 up to version 3 of the format
CLASS_STEP = 8  # quarter levels: a class is a quarter of an octave
MEAN_BITS = 5  # fraction bits of row_mean times col_mean

_TERM_LIMIT = 1 << 24  # beyond any real term; keeps int32 sums of two terms safe


@dataclass(frozen=True)
class CodeMatrix:
    """What the decoder knows of a matrix of codes before it decodes them.

    Attributes:
        shape: rows and columns.
        row_log: (rows,) int, log2 of the row steps in 1/32 octave; zeros where steps tell nothing.
        col_log: (cols,) int, log2 of the column steps in 1/16 octave; zeros likewise.
        trellis: whether codes have states: they then stand column by column in the order of their
            paths, and have no means.
        fine_from: the level from which those are fine; LEVELS: none is.
    """

    shape: tuple[int, int]
    row_log: NDArray[np.integer]
    col_log: NDArray[np.integer]
    trellis: bool = False
    fine_from: int = LEVELS

    def __post_init__(self) -> None:
        """Raise UsageError unless the logs fit the shape."""
        if (self.row_log.shape, self.col_log.shape) != ((self.shape[0],), (self.shape[1],)):
            raise UsageError(
                f"logs of shapes {self.row_log.shape} and {self.col_log.shape} "
                f"for a matrix of shape {self.shape}",
                "pass one row log a row and one column log a column",
            )


@dataclass(frozen=True)
class Header:
    """The constants of one matrix's scale model.

    Attributes:
        offset: in levels, |offset| < 2^(OFFSET_BITS - 1).
        use_row: row_log takes part.
        use_col: col_log takes part.
        spreads: up to version 3 of the format, 0..15 for each side vector, which is coded at level
            SPREAD_STEPS times spread.
    """

    offset: int
    use_row: bool
    use_col: bool
    spreads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class ScaleModel:
    """A header and the four side vectors, int32: (rows,), (cols,), (rows,), (cols,)."""

    header: Header
    row_class: NDArray[np.int32]
    col_class: NDArray[np.int32]
    row_mean: NDArray[np.int32]
    col_mean: NDArray[np.int32]

    @property
    def sides(self) -> tuple[NDArray[np.int32], ...]:
        """The side vectors in the order they are coded."""
        return self.row_class, self.col_class, self.row_mean, self.col_mean


def known_sides(matrix: CodeMatrix) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """What tells classes of rows and of columns: the steps, in quarter octaves as classes are."""
    return matrix.row_log >> 3, matrix.col_log >> 2


def side_levels(header: Header, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The levels at which a matrix's side vectors are coded, one after the other."""
    levels = np.array(header.spreads, np.uint8) * np.array(SPREAD_STEPS, np.uint8)
    return np.repeat(levels, shape * 2)


def code_levels(matrix: CodeMatrix, model: ScaleModel) -> NDArray[np.uint8]:
    """The level of every code, flat in the order of coding."""
    row_term, col_term = terms(matrix, model)
    level = np.empty(matrix.shape, np.uint8)
    for block in _row_blocks(matrix.shape):
        term = row_term[block, None] + col_term
        level[block] = np.clip(term >> 2, 0, LEVELS - 1)
    if matrix.trellis:
        level = level[:, path_order(matrix.col_log)].T
    return level.reshape(-1)


def fine_codes(matrix: CodeMatrix, model: ScaleModel) -> NDArray[np.bool_]:
    """(rows, cols): which codes with states are fine, see `trellis`."""
    row_term, col_term = terms(matrix, model)
    return row_term[:, None] >= 4 * matrix.fine_from - col_term


def terms(matrix: CodeMatrix, model: ScaleModel) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row and column parts of a level, in quarter levels."""
    header = model.header
    row = CLASS_STEP * model.row_class.astype(np.int64) + 4 * header.offset + 2
    col = CLASS_STEP * model.col_class.astype(np.int64)
    if header.use_row:
        row -= matrix.row_log
    if header.use_col:
        col -= 2 * matrix.col_log.astype(np.int64)
    row, col = (np.clip(term, -_TERM_LIMIT, _TERM_LIMIT) for term in (row, col))
    return row.astype(np.int32), col.astype(np.int32)


def shifted(codes: NDArray[np.int32], model: ScaleModel, sign: int) -> NDArray[np.int32] | None:
    """Codes with the means added (sign 1) or taken off (-1); None if one leaves int32."""
    if not model.row_mean.any():
        return codes
    moved = np.empty_like(codes)
    row_mean, col_mean = model.row_mean.astype(np.int64), model.col_mean.astype(np.int64)
    for block in _row_blocks(codes.shape):
        mean = (row_mean[block, None] * col_mean + (1 << MEAN_BITS - 1)) >> MEAN_BITS
        exact = codes[block] + sign * mean
        moved[block] = exact
        if not np.array_equal(moved[block], exact):
            return None
    return moved


def _row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Runs of rows of some 2^16 codes: few, and nothing wider than a byte is kept for all codes."""
    rows, cols = shape
    step = max(1, (1 << 16) // cols)
    return [slice(at, at + step) for at in range(0, rows, step)]
