"""Step fields <-> manifest fields, and bytes in the streams `rows` and `cols`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from golfpack.errors import CorruptError
from golfpack.packer.format.steps import COL_OCTAVE, ROW_OCTAVE, F16Steps, LogSteps, StepField

# Steps lie within 2^-MAX_OCTAVES and 2^MAX_OCTAVES; float32 ends at 2^128.
MAX_OCTAVES = 126

_F16 = np.dtype("<f2")


def pack_steps(steps: StepField, cols: int) -> tuple[dict[str, Any], bytes, bytes]:
    """The step field of a matrix of `cols` columns: manifest fields, row bytes, column bytes."""
    col_fields, col_data = {}, b""
    if steps.col_log is not None:
        col_fields["cols"], col_data = _pack_log(steps.col_log)
    if isinstance(steps, LogSteps):
        base_grain, row_data = _pack_log(steps.row_log)
        return {"rows": base_grain, **col_fields}, row_data, col_data
    fields: dict[str, Any] = {"rows": "f16", **col_fields}
    if steps.group is not None:
        # A group wider than the matrix is the matrix; a reader takes no wider one.
        fields["group"] = min(steps.group, max(cols, 1))
    return fields, steps.row_f16.astype(_F16).tobytes(), col_data


def _pack_log(log: np.ndarray) -> tuple[list[int], bytes]:
    """Log steps as [base, grain], and a byte each: multiples of the grain above the base."""
    if not log.size:
        return [0, 1], b""
    base = int(log.min())
    grain = int(np.gcd.reduce(log - base)) or 1
    return [base, grain], ((log - base) // grain).astype(np.uint8).tobytes()


def step_counts(fields: Mapping[str, Any], shape: tuple[int, int]) -> tuple[int, int]:
    """How many row steps and column steps the fields claim for a matrix of `shape`.

    Raises:
        CorruptError: a group of columns that is not possible.
    """
    rows, cols = shape
    if "group" in fields:
        group = fields["group"]
        if fields["rows"] != "f16" or type(group) is not int or not 1 <= group <= max(cols, 1):
            raise CorruptError(
                'a tensor\'s "group" in the manifest is no number of columns that share a float16 step: '
                "from 1 to all of them",
                None,
            )
        rows *= -(-cols // group)
    return rows, cols if "cols" in fields else 0


def row_bytes(fields: Mapping[str, Any], shape: tuple[int, int]) -> int:
    """Bytes of a matrix in the stream `rows`; in `cols`, it has one a column step."""
    return step_counts(fields, shape)[0] * (_F16.itemsize if fields["rows"] == "f16" else 1)


def unpack_steps(
    name: str, fields: Mapping[str, Any], shape: tuple[int, int], row_data: bytes, col_data: bytes
) -> StepField:
    """The inverse of `pack_steps`, for a matrix of tensor `name`.

    Raises:
        CorruptError: steps out of range.
    """
    col = _unpack_log(col_data, fields["cols"], COL_OCTAVE) if "cols" in fields else None
    if fields["rows"] != "f16":
        return LogSteps(_unpack_log(row_data, fields["rows"], ROW_OCTAVE), col)
    f16 = np.frombuffer(row_data, _F16)
    if not ((f16 > 0) & np.isfinite(f16)).all():
        raise CorruptError(f"tensor {name!r} has a step that is not finite and positive", None)
    if "group" not in fields:
        return F16Steps(f16, None, col)
    rows, cols = shape
    group = fields["group"]
    return F16Steps(f16.reshape(rows, -(-cols // group)), group, col)


def _unpack_log(data: bytes, base_grain: list[int], octave: int) -> np.ndarray:
    base, grain = base_grain
    limit = MAX_OCTAVES * octave
    if type(base) is not int or type(grain) is not int or not 0 < grain <= limit >= abs(base):
        raise CorruptError(f"step base {base!r} and grain {grain!r} are out of range", None)
    log = base + grain * np.frombuffer(data, np.uint8).astype(np.int32)
    if np.abs(log).max(initial=0) > limit:
        raise CorruptError(f"steps up to 2^{log.max() / octave:.0f} are out of range", None)
    return log
