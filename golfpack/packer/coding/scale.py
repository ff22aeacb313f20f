"""The scale model of a code matrix: which table each code is coded with.

Given its standard deviation, a code is as good as Gaussian, and standard deviations are separable:
those of code (i, j) are a row factor times a column factor. Quantisation steps already tell most of
both, as a weight of usual size over a large step is a small code. So the level of a code is

    level[i, j] = (4 offset + 2 - [use_row] row_log[i] - [use_col] 2 col_log[j]
                   + 8 row_class[i] + 8 col_class[j]) >> 2,  clipped to 0..183

with the logs known to the decoder, and small integers for the rest, a few hundred bytes a megabyte.
No code's level depends on another code, so that decoding is parallel however one likes.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from golfpack.errors import UsageError
from golfpack.packer.coding.tables import (
    ESCAPE_BYTE_COST,
    LEVELS,
    LEVELS_PER_OCTAVE,
    MAX_SYMBOLS,
    PRECISION,
    TABLES,
    UNIT_LEVEL,
    symbol_costs,
    tables,
)

SPREADS = 16  # a class vector is coded at level 3 spread
SPREAD_STEP = 3
OFFSET_BITS = 14  # signed

_CLASS_STEP = 8  # quarter levels: a class is a quarter of an octave
_TERM_LIMIT = 1 << 24  # beyond any real term; keeps int32 sums of two terms safe
_ROUNDS = 3  # of refitting rows, then columns
_REACH = 2  # classes tried to either side in a round


@dataclass(frozen=True)
class CodeMatrix:
    """What the decoder knows of a matrix of codes before it decodes them.

    Attributes:
        shape: rows and columns.
        row_log: (rows,) int, log2 of the row steps in 1/32 octave; zeros where steps tell nothing.
        col_log: (cols,) int, log2 of the column steps in 1/16 octave; zeros likewise.
    """

    shape: tuple[int, int]
    row_log: NDArray[np.integer]
    col_log: NDArray[np.integer]

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
        row_spread: the row classes are coded at level 3 row_spread; 0..15.
        col_spread: likewise.
    """

    offset: int
    use_row: bool
    use_col: bool
    row_spread: int
    col_spread: int


@dataclass(frozen=True)
class ScaleModel:
    """A header with the classes, (rows,) and (cols,) int32."""

    header: Header
    row_class: NDArray[np.int32]
    col_class: NDArray[np.int32]


def levels(matrix: CodeMatrix, model: ScaleModel) -> NDArray[np.uint8]:
    """The level of every code, flat in row-major order."""
    row_term, col_term = _terms(matrix, model)
    level = np.empty(matrix.shape, np.uint8)
    for i, term in enumerate(row_term):  # by rows, so that nothing wider than a byte is kept
        level[i] = np.clip((term + col_term) >> 2, 0, LEVELS - 1)
    return level.reshape(-1)


def class_levels(header: Header, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The levels at which a matrix's row classes, then its column classes, are coded."""
    spreads = np.array([header.row_spread, header.col_spread], np.uint8)
    return np.repeat(spreads * np.uint8(SPREAD_STEP), shape)


def fit(codes: NDArray[np.int32], matrix: CodeMatrix) -> ScaleModel:
    """The scale model that makes `codes` (neither side empty) and its own classes cheap."""
    model = _first_guess(codes, matrix)
    for _ in range(_ROUNDS):
        model = _refit(codes, matrix, model, of_rows=True)
        model = _refit(codes, matrix, model, of_rows=False)
    return model


def _terms(matrix: CodeMatrix, model: ScaleModel) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row and column parts of a level, in quarter levels."""
    header = model.header
    row = _CLASS_STEP * model.row_class.astype(np.int64) + 4 * header.offset + 2
    col = _CLASS_STEP * model.col_class.astype(np.int64)
    if header.use_row:
        row -= matrix.row_log
    if header.use_col:
        col -= 2 * matrix.col_log.astype(np.int64)
    row, col = (np.clip(term, -_TERM_LIMIT, _TERM_LIMIT) for term in (row, col))
    return row.astype(np.int32), col.astype(np.int32)


def _first_guess(codes: NDArray[np.int32], matrix: CodeMatrix) -> ScaleModel:
    """A model from row and column means of |code|."""
    magnitude = np.abs(codes.astype(np.float64))
    row_level = _level_of_mean(magnitude.mean(axis=1))
    col_level = _level_of_mean(magnitude.mean(axis=0))
    all_level = _level_of_mean(magnitude.mean())
    use_row, row_rest, row_middle = _explain(row_level, matrix.row_log / 4.0)
    use_col, col_rest, col_middle = _explain(col_level, matrix.col_log / 2.0)
    limit = (1 << OFFSET_BITS - 1) - 1
    offset = int(np.clip(np.rint(row_middle + col_middle - all_level), -limit, limit))
    row_class, col_class = (
        np.rint(rest * 4 / _CLASS_STEP).astype(np.int32) for rest in (row_rest, col_rest)
    )
    spreads = _cheapest_spread(row_class), _cheapest_spread(col_class)
    return ScaleModel(Header(offset, use_row, use_col, *spreads), row_class, col_class)


def _level_of_mean(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (real) level at which |code| has this mean."""
    freq = tables().freq.astype(np.float64)
    known = np.log2(freq @ np.arange(MAX_SYMBOLS) / (1 << PRECISION))
    log = np.log2(np.maximum(mean, 2.0**-20))
    # Above the tables, the mean of |code| is sqrt(2 / pi) = 2^-0.3257 sigma.
    above = LEVELS_PER_OCTAVE * (log + 0.3257) + UNIT_LEVEL
    inside = np.interp(log, known, np.arange(TABLES, dtype=np.float64))
    return np.where(log < known[-1], inside, above)


def _explain(
    level: NDArray[np.float64], log: NDArray[np.float64]
) -> tuple[bool, NDArray[np.float64], float]:
    """Whether steps explain the levels, and what they leave: around a middle, and that middle."""
    best = []
    for rest in (level, level + log):
        middle = float(np.median(rest))
        best.append((rest - middle, middle))
    use = bool(np.abs(best[1][0]).sum() < np.abs(best[0][0]).sum())
    return use, *best[use]


def _refit(
    codes: NDArray[np.int32], matrix: CodeMatrix, model: ScaleModel, *, of_rows: bool
) -> ScaleModel:
    """Move each row (column) class to the cheapest within reach."""
    from golfpack.packer.coding import fast  # numba is slow to import and decoding can do without

    row_term, col_term = _terms(matrix, model)
    cost = fast.class_costs(
        codes, row_term, col_term, tables(), of_rows=of_rows, reach=_REACH, step=_CLASS_STEP
    )
    old = model.row_class if of_rows else model.col_class
    spread = model.header.row_spread if of_rows else model.header.col_spread
    tried = old[:, None] + np.arange(-_REACH, _REACH + 1, dtype=np.int32)
    best = np.argmin(cost + _class_cost(tried, spread), axis=1)
    new = tried[np.arange(len(old)), best]
    spread = _cheapest_spread(new)
    if of_rows:
        return ScaleModel(replace(model.header, row_spread=spread), new, model.col_class)
    return ScaleModel(replace(model.header, col_spread=spread), model.row_class, new)


def _class_cost(classes: NDArray[np.int32], spread: int) -> NDArray[np.int64]:
    """Cost of classes at a spread, in COST_UNITS."""
    level = spread * SPREAD_STEP
    last = int(tables().escape[level])
    magnitude = np.abs(classes)
    return symbol_costs()[level][np.minimum(magnitude, last)] + ESCAPE_BYTE_COST * (
        magnitude >= last
    )


def _cheapest_spread(classes: NDArray[np.int32]) -> int:
    return int(np.argmin([_class_cost(classes, spread).sum() for spread in range(SPREADS)]))
