"""Reports read back from disk: checked before anything is believed, as they may come from anywhere."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError
from golfpack.report.reports import SCHEMA_VERSION

# Keys whose types the page relies on. All may be missing or null, but for those in `_NEEDED`.
_NUMBERS = (
    "parameters", "budget_bytes", "code_bytes", "artifact_bytes", "headroom_bytes", "fixed_bytes",
    "bits_per_weight", "dial", "seed", "predicted_kl", "measured_kl", "measured_bpb",
)  # fmt: skip
_TEXTS = (
    "checkpoint", "checkpoint_sha256", "family", "recipe", "plan", "artifact", "artifact_sha256",
    "status", "error", "hint",
)  # fmt: skip
_LINES = ("settings", "notes", "warnings", "argv")
_OBJECTS = ("config", "assumed", "calibration", "versions", "seconds")
_NEEDED = ("schema_version", "family", "recipe", "artifact_sha256", "tensors")
# Of a tensor: always there, and numbers where there.
_TENSOR_NEEDED = ("name", "role", "shape", "scheme", "bytes")
_TENSOR_NUMBERS = (
    "bytes", "side_bytes", "bpw", "entropy", "zeros", "rel_err", "sqnr_db", "predicted_kl",
    "bits_over_rd", "step_min", "step_max", "ones", "clipped", "kurtosis", "hessian_err", "kl_share",
    "trace_h", "dead_columns", "worst_row", "worst_row_err",
)  # fmt: skip
_EVAL_NUMBERS = (
    "model_bytes", "window", "val_loss", "val_bpb", "targets", "scored_tokens", "scored_bytes",
    "documents", "seconds", "tokens_per_second", "float_bpb", "quant_gap",
)  # fmt: skip
_EVAL_TEXTS = ("model", "model_sha256", "tokens", "tokens_sha256", "tokenizer", "mode", "ttt")
_EVAL_NEEDED = ("schema_version", "model_sha256", "val_bpb", "val_loss")

# Above any count or size, below what overflows in sums.
_LARGEST = 1 << 50


def read_build(path: Path) -> dict[str, Any]:
    """The keys of a build report that the page shows.

    Raises:
        UsageError: the file cannot be read, is no build report, or is one of a later golfpack.
    """
    found = _Checked(path, "build report", "`golfpack build` writes one beside its artifact")
    data = found.load(_NEEDED)
    found.typed(data, _NUMBERS, _is_number, "a number")
    found.typed(data, _TEXTS, _is_text, "text")
    found.typed(data, _LINES, _is_lines, "a list of texts")
    found.typed(data, _OBJECTS, _is_object, "an object")
    found.typed(data, ("trace",), _is_trace, "a list of [dial, bytes]")
    found.typed(data, ("codes",), _is_list, "a list")
    found.typed(data, ("frontier",), _is_frontier, "a list of bytes and predicted_kl")
    tensors = data["tensors"]
    found.require(isinstance(tensors, list), "tensors is not a list")
    shown = (*_NUMBERS, *_TEXTS, *_LINES, *_OBJECTS, "trace", "codes", "frontier")
    rows = [found.tensor(i, t) for i, t in enumerate(tensors)]
    found.require(len({r["name"] for r in rows}) == len(rows), "it lists a tensor twice")
    return {k: data[k] for k in shown if data.get(k) is not None} | {"tensors": rows}


def read_eval(path: Path) -> dict[str, Any]:
    """The keys of an evaluation report that the page shows. Raises UsageError as `read_build`."""
    found = _Checked(path, "evaluation report", "write it with `golfpack eval ... --json`")
    data = found.load(_EVAL_NEEDED)
    found.typed(data, _EVAL_NUMBERS, _is_number, "a number")
    found.typed(data, _EVAL_TEXTS, _is_text, "text")
    found.typed(data, ("warnings",), _is_lines, "a list of texts")
    found.typed(data, ("options", "byte_audit", "round_trip"), _is_object, "an object")
    found.typed(data, ("legality",), _is_legality, "a list of checks")
    shown = (*_EVAL_NUMBERS, *_EVAL_TEXTS, "warnings", "options", "byte_audit", "round_trip")
    return {k: data[k] for k in (*shown, "legality") if data.get(k) is not None}


class _Checked:
    """Complains about one file."""

    def __init__(self, path: Path, kind: str, hint: str) -> None:
        self.path, self.kind, self.hint = path, kind, hint

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise UsageError(f"{self.path} is no {self.kind}: {what}", self.hint)

    def load(self, needed: tuple[str, ...]) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_bytes(), parse_constant=_no_number)
        except OSError as e:
            raise UsageError(f"cannot read {self.path}: {e.strerror}", self.hint) from e
        except (ValueError, RecursionError) as e:
            raise UsageError(f"{self.path} is no {self.kind}: it is not JSON", self.hint) from e
        if not isinstance(data, dict):
            raise UsageError(f"{self.path} is no {self.kind}: it is no JSON object", self.hint)
        for key in needed:
            self.require(key in data, f"it has no {key}")
        version = data["schema_version"]
        self.require(type(version) is int and version >= 1, "schema_version is no version")
        if version > SCHEMA_VERSION:
            raise UsageError(
                f"{self.path} has schema version {version}; this golfpack reads up to "
                f"{SCHEMA_VERSION}",
                "use the golfpack that wrote it, or a newer one",
            )
        return data

    def typed(self, data: Mapping[str, Any], keys: tuple[str, ...], check: Any, kind: str) -> None:
        for key in keys:
            if data.get(key) is not None:
                self.require(check(data[key]), f"{key} is not {kind}")

    def tensor(self, index: int, row: Any) -> dict[str, Any]:
        self.require(isinstance(row, dict), f"tensor {index} is no object")
        for key in _TENSOR_NEEDED:
            self.require(row.get(key) is not None, f"tensor {index} has no {key}")
        for key in ("name", "role", "scheme"):
            self.require(isinstance(row[key], str), f"{key} of tensor {index} is not text")
        shape = row["shape"]
        self.require(
            isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape),
            f"shape of tensor {index} is no shape",
        )
        self.typed(row, _TENSOR_NUMBERS, _is_number, f"a number in tensor {index}")
        self.typed(row, ("histogram",), _is_histogram, f"a histogram in tensor {index}")
        plain = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
        return {**plain, "shape": shape, "histogram": row.get("histogram")}


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < _LARGEST) or (
        type(value) is float and isfinite(value)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_trace(value: Any) -> bool:
    return _is_list(value) and all(
        _is_list(r) and len(r) == 2 and all(map(_is_number, r)) for r in value
    )


def _is_frontier(value: Any) -> bool:
    return _is_list(value) and all(
        _is_object(p) and _is_number(p.get("bytes")) and _is_number(p.get("predicted_kl"))
        for p in value
    )


def _is_legality(value: Any) -> bool:
    return _is_list(value) and all(_is_object(c) and _is_text(c.get("name")) for c in value)


def _is_histogram(value: Any) -> bool:
    return (
        _is_object(value)
        and type(value.get("first")) is int
        and _is_number(value["first"])
        and _is_list(value.get("counts"))
        and all(type(n) is int and 0 <= n < _LARGEST for n in value["counts"])
    )
