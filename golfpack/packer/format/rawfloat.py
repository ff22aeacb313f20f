"""Floats stored as they are: float32, float16 and bfloat16 (which numpy lacks: kept as uint16)."""

from typing import Literal

import numpy as np

RawType = Literal["f32", "f16", "bf16"]
RAW_STORAGE: dict[RawType, np.dtype] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
}


def raw_from_float32(x: np.ndarray, dtype: RawType) -> np.ndarray:
    """Round float32 values to `dtype` (nearest even) and return them in their storage type."""
    x = np.ascontiguousarray(x, np.float32)
    if dtype != "bf16":
        return x.astype(RAW_STORAGE[dtype])
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")


def raw_to_float32(values: np.ndarray, dtype: RawType) -> np.ndarray:
    """The inverse: stored values as float32."""
    if dtype != "bf16":
        return values.astype(np.float32)
    return (values.astype(np.uint32) << 16).view(np.float32)


def smallest_exact(x: np.ndarray) -> RawType:
    """The narrowest type that holds every value of float32 `x` exactly."""
    candidates: tuple[RawType, ...] = ("f16", "bf16")
    for dtype in candidates:
        with np.errstate(over="ignore"):
            back = raw_to_float32(raw_from_float32(x, dtype), dtype)
        if np.array_equal(back, x):
            return dtype
    return "f32"
