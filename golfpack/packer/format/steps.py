"""Step fields: the step of weight (r, i) is row[r] * col[i].

Two codings. `F16Steps` is what the contest's records store: one float16 per row, or per group of
columns in a row. `LogSteps` stores integers, row[r] = 2^(row_log[r] / 32) and
col[i] = 2^(col_log[i] / 16): a few bits per entry, and a coder can use the integers as context.
Their float32 values come from a table worked out in integer arithmetic, so every machine reconstructs
the same bits whatever its libm.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import ClassVar

import numpy as np

ROW_OCTAVE = 32
COL_OCTAVE = 16
# Rows beside so many times fewer columns are very many.
MANY = 16
# Its multiples, modulo 1, are spread as evenly as any sequence's.
GOLDEN_RATIO = 0.6180339887498949


def _pow2_table(n: int) -> np.ndarray:
    """float32 of 2^(k/n) for k = 0..n-1 (n a power of two), correctly rounded, by integer roots."""
    scale_bits = 120
    table: list[np.float32] = []
    for k in range(n):
        # 2^(k/n): take the square root log2(n) times of 2^k, each floor error below 2^-100.
        value, root = (1 << k) << scale_bits, n
        while root > 1:
            value = isqrt(value << scale_bits)
            root //= 2
        mantissa = (value + (1 << (scale_bits - 24))) >> (scale_bits - 23)
        table.append(np.float32(mantissa) * np.float32(2.0**-23))
    return np.array(table, np.float32)


_ROW_TABLE = _pow2_table(ROW_OCTAVE)
_COL_TABLE = _pow2_table(COL_OCTAVE)


def exp2_log(log: np.ndarray, octave: int) -> np.ndarray:
    """float32 of 2^(log/octave) for integer `log`; bit-identical everywhere."""
    table = _ROW_TABLE if octave == ROW_OCTAVE else _COL_TABLE
    log = np.asarray(log, np.int64)
    return np.ldexp(table[log % octave], (log // octave).astype(np.int32)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BaselineEncoder:
    """Rounding as the challenge's baseline export does it, in float32 throughout.

    It clamps rows to `clip`, divides by `scale`, and only then rounds the scale to float16.

    Attributes:
        clip, scale: (rows,) float32.
    """

    clip: np.ndarray
    scale: np.ndarray

    def codes(self, w: np.ndarray) -> np.ndarray:
        """(rows, cols) float32, rounded but not limited."""
        return np.rint(np.clip(w, -self.clip[:, None], self.clip[:, None]) / self.scale[:, None])


@dataclass(frozen=True, eq=False)
class F16Steps:
    """float16 steps, all finite and positive, and maybe log-coded column steps.

    Attributes:
        row_f16: (rows,), or (rows, groups) under `group`.
        group: consecutive columns that share a step within a row (the last group may be shorter);
            None for whole rows.
        col_log: (cols,) int32 in 1/16 octave, or None.
        encoder: what codes are rounded with instead of the stored steps; not stored itself.
    """

    row_f16: np.ndarray
    group: int | None = None
    col_log: np.ndarray | None = None
    encoder: "BaselineEncoder | None" = None

    @cached_property
    def row(self) -> np.ndarray:
        """float32, (rows,) or (rows, groups)."""
        return self.row_f16.astype(np.float32)

    @cached_property
    def col(self) -> np.ndarray | None:
        """(cols,) float32, or None."""
        return None if self.col_log is None else exp2_log(self.col_log, COL_OCTAVE)


@dataclass(frozen=True, eq=False)
class LogSteps:
    """Log-coded steps: `row_log` (rows,) int32 in 1/32 octave, `col_log` (cols,) int32 in 1/16."""

    row_log: np.ndarray
    col_log: np.ndarray | None = None
    group: ClassVar[None] = None

    @cached_property
    def row(self) -> np.ndarray:
        """(rows,) float32."""
        return exp2_log(self.row_log, ROW_OCTAVE)

    @cached_property
    def col(self) -> np.ndarray | None:
        """(cols,) float32, or None."""
        return None if self.col_log is None else exp2_log(self.col_log, COL_OCTAVE)


StepField = F16Steps | LogSteps


def col_logs_of(steps: StepField, cols: int) -> np.ndarray:
    """(cols,) int32, the logs of the column steps; zeros where there are none."""
    return np.zeros(cols, np.int32) if steps.col_log is None else steps.col_log


def spread_rows(row: np.ndarray, group: int | None, cols: int) -> np.ndarray:
    """Row steps as (rows, 1), or group by group as (rows, cols): what multiplies a matrix."""
    return row[:, None] if group is None else np.repeat(row, group, axis=1)[:, :cols]


def step_matrix(steps: "StepField", shape: tuple[int, ...]) -> np.ndarray:
    """(rows, cols) float64, the step of every weight (read-only)."""
    row = spread_rows(steps.row.astype(np.float64), steps.group, shape[1])
    return np.broadcast_to(row if steps.col is None else row * steps.col, shape)


def every_row(steps: StepField, stride: int) -> StepField:
    """The steps of every `stride`-th row."""
    if isinstance(steps, LogSteps):
        return LogSteps(steps.row_log[::stride], steps.col_log)
    encoder = steps.encoder
    if encoder is not None:
        encoder = BaselineEncoder(encoder.clip[::stride], encoder.scale[::stride])
    return F16Steps(steps.row_f16[::stride], steps.group, steps.col_log, encoder)


def f16_steps(row: np.ndarray, group: int | None = None) -> F16Steps:
    """Row steps rounded to float16, kept within its positive range so that no step becomes 0 or inf."""
    tiny, huge = np.float64(np.finfo(np.float16).smallest_subnormal), np.float64(65504.0)
    return F16Steps(np.clip(row, tiny, huge).astype(np.float16), group)


def log_steps(
    row: np.ndarray, col: np.ndarray | None, *, row_grain: int = 1, col_grain: int = 1
) -> LogSteps:
    """Nearest log-coded steps to float64 `row` and `col` (positive), as multiples of the grains.

    Rows are dithered within one log unit: rows that ask for one and the same step then change over to
    the next one by one as a dial turns, and a file's size can follow it smoothly. Where half of very
    many rows ask for one step (a table whose rows hardly any token finds), a grain would still be a
    cliff, and rows that have changed over beside rows that have not would cost a bit each to tell: there
    the columns carry what lies between two grains, and change over in their place.

    Each tensor's integers span at most 255 grains (64 octaves of quarters): the few entries below that
    span (dead columns, empty rows) are raised to it: steps that small only cost bits. Up to version 3
    of the format an entry was a byte.
    """
    dither = (np.arange(len(row)) * GOLDEN_RATIO) % 1.0 - 0.5
    row_log = _log(row, ROW_OCTAVE)
    if col is None:
        return LogSteps(_rounded(row_log, row_grain, dither))
    col_log = _log(col, COL_OCTAVE)
    if len(row) < MANY * len(col) or not _tied(row_log, row_grain):
        return LogSteps(_rounded(row_log, row_grain, dither), _rounded(col_log, col_grain))
    usual = np.median(row_log)
    between = usual - row_grain * np.rint(usual / row_grain)
    return LogSteps(
        _rounded(row_log - between, row_grain, dither),
        _raised(_rounded(col_log, col_grain), between * (COL_OCTAVE / ROW_OCTAVE)),
    )


def _raised(col_log: np.ndarray, by: float) -> np.ndarray:
    """Integers whose mean is about so much larger; the largest rise first, so that their order stays.

    The paths of codes with states follow it (`format.trellis`).
    """
    rank = np.empty(len(col_log))
    rank[np.argsort(-col_log, kind="stable")] = np.arange(len(col_log))
    return col_log + np.ceil(by - (rank + 0.5) / len(col_log)).astype(np.int32)


def _tied(row_log: np.ndarray, grain: int) -> bool:
    """Whether half of all rows or more ask for one step, others for another."""
    if len(row_log) < 2 or np.ptp(row_log) < grain:
        return False
    usual = np.abs(row_log - np.median(row_log)) < 0.5
    return bool(2 * int(np.count_nonzero(usual)) >= len(row_log))


def col_logs(col: np.ndarray) -> np.ndarray:
    """Nearest `col_log` (cols,) int32 to positive column steps, for `F16Steps`."""
    return _rounded(_log(np.asarray(col, np.float64), COL_OCTAVE), 1)


def _log(x: np.ndarray, octave: int) -> np.ndarray:
    return np.log2(np.clip(x, 2.0**-100, 2.0**100)) * octave


def _rounded(log: np.ndarray, grain: int, dither: np.ndarray | float = 0.0) -> np.ndarray:
    """Integers, int32: multiples of the grain."""
    if log.size and np.ptp(log) < grain:  # a (nearly) constant side costs nothing to store finely
        grain = 1
    coarse = np.rint((log + dither) / grain).astype(np.int32)
    return np.maximum(coarse, coarse.max(initial=-(1 << 20)) - 255) * grain
