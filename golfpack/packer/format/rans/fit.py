"""Fitting the scale model: the encoder's part. It may use floats, as it chooses and never defines."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from golfpack.packer.format.rans import fast
from golfpack.packer.format.rans.context_model import (
    CLASS_STEP,
    MEAN_BITS,
    OFFSET_BITS,
    CodeMatrix,
    Header,
    ScaleModel,
    known_sides,
    shifted,
    terms,
)
from golfpack.packer.format.rans.fit_vectors import expected
from golfpack.packer.format.rans.tables import (
    FAR,
    LEVELS_PER_OCTAVE,
    MAX_SYMBOLS,
    PRECISION,
    TABLES,
    UNIT_LEVEL,
    magnitude_costs,
    tables,
)

_ROUNDS = 3  # of refitting rows, then columns
_REACH = 2  # classes tried to either side in a round
_MEAN_ROUNDS = 6  # of power iteration
_MEAN_SIZE = 4  # root mean square of the row means that are not zero
_MEAN_COST = 4.0  # bits that one entry of the means must promise to save
_OUTLIER = 4.0  # standard deviations at which a code stops to pull the means
_WIDE = 2000  # a term of 62 octaves: wider ones come from nonsense steps only
_DEAD = 0.35  # codes of a smaller standard deviation are nearly all zero


def fit(codes: NDArray[np.int32], matrix: CodeMatrix) -> ScaleModel:
    """The scale model that makes `codes` (neither side empty) and its own side vectors cheap."""
    plain = fit_scales(codes, matrix)
    means = _means(codes, matrix, plain)
    if means is None:
        return plain
    centred = shifted(codes, replace(plain, row_mean=means[0], col_mean=means[1]), -1)
    if centred is None:
        return plain
    model = fit_scales(centred, matrix)
    model = replace(model, row_mean=means[0], col_mean=means[1])
    return model if _cost(centred, matrix, model) < _cost(codes, matrix, plain) else plain


def fit_scales(codes: NDArray[np.int32], matrix: CodeMatrix) -> ScaleModel:
    """The best model without means: coordinate descent on the cost in bits, of codes without states."""
    model = _first_guess(codes, matrix)
    for _ in range(_ROUNDS):
        model = _refit(codes, matrix, model, side=0)
        model = _refit(codes, matrix, model, side=1)
    return model


def _first_guess(codes: NDArray[np.int32], matrix: CodeMatrix) -> ScaleModel:
    """A model from means of log |code|: separable as scales are, and deaf to single outliers."""
    row_level, col_level, all_level = side_mean_levels(codes)
    use_row, row_rest, row_middle = _explain(row_level, matrix.row_log / 4.0)
    use_col, col_rest, col_middle = _explain(col_level, matrix.col_log / 2.0)
    limit = (1 << OFFSET_BITS - 1) - 1
    offset = int(np.clip(np.rint(row_middle + col_middle - all_level), -limit, limit))
    row_class, col_class = (
        np.rint(rest * 4 / CLASS_STEP).astype(np.int32) for rest in (row_rest, col_rest)
    )
    no_means = (np.zeros(side, np.int32) for side in codes.shape)
    return ScaleModel(Header(offset, use_row, use_col), row_class, col_class, *no_means)


def side_mean_levels(
    codes: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(rows,), (cols,) levels of a matrix of codes, and that of all: a code's is row + column - all."""
    log = np.log2(np.abs(codes.astype(np.float64)) + 0.5)
    row_level = _level_of_mean_log(log.mean(axis=1))
    col_level = _level_of_mean_log(log.mean(axis=0))
    return row_level, col_level, float(_level_of_mean_log(log.mean()))


def _level_of_mean_log(mean_log: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (real) level at which log2(|code| + 1/2) has this mean."""
    freq = tables().freq[:TABLES].astype(np.float64)
    known = freq @ np.log2(np.arange(MAX_SYMBOLS) + 0.5) / (1 << PRECISION)
    above = (TABLES - 1) + LEVELS_PER_OCTAVE * (mean_log - known[-1])
    inside = np.interp(mean_log, known, np.arange(TABLES, dtype=np.float64))
    return np.where(mean_log < known[-1], inside, above)


def _explain(
    level: NDArray[np.float64], log: NDArray[np.float64]
) -> tuple[bool, NDArray[np.float64], float]:
    """Whether steps explain the levels, and what they leave: around a middle, and that middle."""
    best: list[tuple[NDArray[np.float64], float]] = []
    for rest in (level, level + log):
        middle = float(np.median(rest))
        best.append((rest - middle, middle))
    use = bool(np.abs(best[1][0]).sum() < np.abs(best[0][0]).sum())
    return use, *best[use]


def _refit(
    codes: NDArray[np.int32],
    matrix: CodeMatrix,
    model: ScaleModel,
    *,
    side: int,
) -> ScaleModel:
    """Move each row class (side 0) or column class (side 1) to the cheapest within reach."""
    cost = fast.class_costs(
        codes, *terms(matrix, model), tables(),
        of_rows=side == 0, reach=_REACH, step=CLASS_STEP,
    )  # fmt: skip
    old = model.sides[side]
    _, centre, level = expected(old, known_sides(matrix)[side])
    tried = old[:, None] + np.arange(-_REACH, _REACH + 1, dtype=np.int32)
    apart = np.minimum(np.abs(tried - centre[:, None]), FAR)
    best = np.argmin(cost + magnitude_costs()[level][apart], axis=1)
    new = tried[np.arange(len(old)), best]
    return replace(model, row_class=new) if side == 0 else replace(model, col_class=new)


def _means(
    codes: NDArray[np.int32], matrix: CodeMatrix, model: ScaleModel
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Row and column means: the first singular pair of codes / standard deviation, where it pays."""
    row_term, col_term = (np.clip(term, -_WIDE, _WIDE) for term in terms(matrix, model))
    row_sigma = 2.0 ** (row_term / (4 * LEVELS_PER_OCTAVE))
    col_sigma = 2.0 ** ((col_term / 4 - UNIT_LEVEL) / LEVELS_PER_OCTAVE)
    sigma = row_sigma[:, None] * col_sigma
    unit = np.where(sigma > _DEAD, np.clip(codes / sigma, -_OUTLIER, _OUTLIER), 0)
    right = unit.sum(axis=0)
    for _ in range(_MEAN_ROUNDS):  # einsum, as its sums do not depend on the number of threads
        right = np.einsum("ij,i->j", unit, np.einsum("ij,j->i", unit, right))
        right /= max(float(np.sqrt((right * right).sum())), 1e-30)
    left = np.einsum("ij,j->i", unit, right)
    before = (unit * unit).sum(axis=1) + 1
    after = np.maximum(before - left * left, 1)
    gain = 0.5 * codes.shape[1] * np.log2(before / after)
    paid = gain > _MEAN_COST
    if gain[paid].sum() <= _MEAN_COST * sum(codes.shape):
        return None
    row_mean, col_mean = np.where(paid, left * row_sigma, 0), right * col_sigma
    scale = _MEAN_SIZE / np.sqrt((row_mean[paid] ** 2).mean())
    row_mean = np.rint(row_mean * scale)
    col_mean = np.rint(col_mean / scale * (1 << MEAN_BITS))
    limit = 2.0**31 - 1
    row_mean, col_mean = (
        np.clip(mean, -limit, limit).astype(np.int32) for mean in (row_mean, col_mean)
    )
    return row_mean, col_mean


def _cost(codes: NDArray[np.int32], matrix: CodeMatrix, model: ScaleModel) -> int:
    """Cost of centred codes and side vectors, in COST_UNITS."""
    cost = fast.class_costs(
        codes, *terms(matrix, model), tables(), of_rows=True, reach=0, step=CLASS_STEP
    )
    sides = zip(model.sides, known_sides(matrix) * 2, strict=True)
    # Vectors of zeros are means of a model without means, which are not coded.
    told = [expected(side, known)[0] for side, known in sides if side.any()]
    return int(cost.sum()) + sum(told)
