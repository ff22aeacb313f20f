"""Step fields <-> fields of the manifest, float16 in the stream `rows`, logs in the stream `steps`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from golfpack.errors import CorruptError
from golfpack.packer.format.steps import COL_OCTAVE, ROW_OCTAVE, F16Steps, LogSteps, StepField

# Steps lie within 2^-MAX_OCTAVES and 2^MAX_OCTAVES; float32 ends at 2^128.
MAX_OCTAVES = 126

# The last version of the format that has bytes for logs.
OLD_STEPS = 3

_F16 = np.dtype("<f2")
_MAX_GRAIN = MAX_OCTAVES * ROW_OCTAVE


@dataclass(frozen=True, eq=False)
class StepParts:
    """Where a matrix's steps are stored.

    Attributes:
        fields: of the manifest.
        f16: bytes of the stream `rows`.
        logs: vectors of the stream `steps`, each with its kind: whose steps they are, and its grain.
    """

    fields: dict[str, Any]
    f16: bytes
    logs: list[tuple[tuple[str, int], np.ndarray]]


def pack_steps(steps: StepField, cols: int) -> StepParts:
    """The step field of a matrix of `cols` columns."""
    if isinstance(steps, LogSteps):
        grain = _grain(steps.row_log)
        fields: dict[str, Any] = {"rows": grain}
        f16, logs = b"", [(("rows", grain), steps.row_log // grain)]
    else:
        fields, logs = {"rows": "f16"}, list[tuple[tuple[str, int], np.ndarray]]()
        f16 = steps.row_f16.astype(_F16).tobytes()
        if steps.group is not None:
            # A group wider than the matrix is the matrix; a reader takes no wider one.
            fields["group"] = min(steps.group, max(cols, 1))
    if steps.col_log is not None:
        grain = fields["cols"] = _grain(steps.col_log)
        logs.append((("cols", grain), steps.col_log // grain))
    return StepParts(fields, f16, logs)


def _grain(log: np.ndarray) -> int:
    """What logs are multiples of; 1 where all are equal, which says nothing of the next matrix."""
    return int(np.gcd.reduce(log)) if log.size and np.ptp(log) else 1


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


def steps_held(fields: Mapping[str, Any], shape: tuple[int, int], version: int) -> dict[str, int]:
    """What a matrix has in streams of steps under a version of the format.

    In `rows` and `cols` bytes, in `steps` integers, of which a head counts as two.
    """
    if version <= OLD_STEPS:
        return {"rows": old_row_bytes(fields, shape), "cols": step_counts(fields, shape)[1]}
    return {
        "rows": f16_bytes(fields, shape),
        "steps": sum(n + 2 for _, n in step_plan(fields, shape)),
    }


def f16_bytes(fields: Mapping[str, Any], shape: tuple[int, int]) -> int:
    """Bytes of a matrix in the stream `rows`, of float16 steps."""
    return step_counts(fields, shape)[0] * _F16.itemsize if fields["rows"] == "f16" else 0


def step_plan(
    fields: Mapping[str, Any], shape: tuple[int, int]
) -> list[tuple[tuple[str, int], int]]:
    """Kind and length of a matrix's vectors in the stream `steps`.

    Raises:
        CorruptError: a grain that is no number of log units.
    """
    rows, cols = step_counts(fields, shape)
    plan = [] if fields["rows"] == "f16" else [(("rows", fields["rows"]), rows)]
    if "cols" in fields:
        plan.append((("cols", fields["cols"]), cols))
    if any(type(grain) is not int or not 0 < grain <= _MAX_GRAIN for (_, grain), _ in plan):
        raise CorruptError("a grain of steps in the manifest is out of range", None)
    return plan


def unpack_steps(
    name: str,
    fields: Mapping[str, Any],
    shape: tuple[int, int],
    f16: bytes,
    logs: Mapping[str, np.ndarray],
) -> StepField:
    """The inverse of `pack_steps`, for a matrix of tensor `name`.

    Args:
        f16: of the stream `rows`.
        logs: log steps of "rows" and "cols", of those that it has.

    Raises:
        CorruptError: steps out of range.
    """
    for side, octave in (("rows", ROW_OCTAVE), ("cols", COL_OCTAVE)):
        if side in logs and np.abs(logs[side]).max(initial=0) > MAX_OCTAVES * octave:
            raise CorruptError(f"tensor {name!r} has steps beyond 2^{MAX_OCTAVES}", None)
    log = {side: values.astype(np.int32) for side, values in logs.items()}
    if fields["rows"] != "f16":
        return LogSteps(log["rows"], log.get("cols"))
    row = np.frombuffer(f16, _F16)
    if not ((row > 0) & np.isfinite(row)).all():
        raise CorruptError(f"tensor {name!r} has a step that is not finite and positive", None)
    if "group" not in fields:
        return F16Steps(row, None, log.get("cols"))
    rows, cols = shape
    group = fields["group"]
    return F16Steps(row.reshape(rows, -(-cols // group)), group, log.get("cols"))


# --- up to version 3: a byte a log, in the streams `rows` and `cols` -------------------------------


def old_row_bytes(fields: Mapping[str, Any], shape: tuple[int, int]) -> int:
    """Bytes of a matrix in the stream `rows`; in `cols`, it has one a column step."""
    return step_counts(fields, shape)[0] * (_F16.itemsize if fields["rows"] == "f16" else 1)


def old_logs(fields: Mapping[str, Any], rows: bytes, cols: bytes) -> dict[str, np.ndarray]:
    """Log steps, as `unpack_steps` takes them.

    Raises:
        CorruptError: a base or a grain out of range.
    """
    logs: dict[str, np.ndarray] = {}
    if fields["rows"] != "f16":
        logs["rows"] = _old_log(rows, fields["rows"], ROW_OCTAVE)
    if "cols" in fields:
        logs["cols"] = _old_log(cols, fields["cols"], COL_OCTAVE)
    return logs


def _old_log(data: bytes, base_grain: list[int], octave: int) -> np.ndarray:
    base, grain = base_grain
    limit = MAX_OCTAVES * octave
    if type(base) is not int or type(grain) is not int or not 0 < grain <= limit >= abs(base):
        raise CorruptError(f"step base {base!r} and grain {grain!r} are out of range", None)
    return base + grain * np.frombuffer(data, np.uint8).astype(np.int64)
