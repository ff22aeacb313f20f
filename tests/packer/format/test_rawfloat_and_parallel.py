"""Kept floats, and work whose order does not depend on threads."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.base.parallel import map_ordered
from golfpack.packer.format.rawfloat import (
    RAW_STORAGE,
    raw_from_float32,
    raw_to_float32,
    smallest_exact,
)

TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore:overflow")
def test_rounding_is_torchs(values):
    x = np.array(values, np.float32)
    for dtype in RAW_STORAGE:
        stored = raw_from_float32(x, dtype)
        assert stored.dtype == RAW_STORAGE[dtype]
        expected = torch.from_numpy(x).to(TORCH[dtype]).float().numpy()
        np.testing.assert_array_equal(raw_to_float32(stored, dtype), expected)


def test_the_narrowest_exact_type():
    assert smallest_exact(np.float32([1.5, -65504.0])) == "f16"
    assert smallest_exact(np.float32([1.5, 2.0**100])) == "bf16"
    assert smallest_exact(np.float32([0.1])) == "f32"
    assert smallest_exact(np.float32([])) == "f16"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_their_order_and_little_is_in_flight(threads):
    running, most, lock = [0], [0], threading.Lock()
    taken = []

    def items():
        for i in range(40):
            taken.append(i)
            yield i

    def work(i):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        sum(range((40 - i) * 500))
        with lock:
            running[0] -= 1
        return i * i

    for done, result in enumerate(map_ordered(work, items(), threads)):
        assert result == done * done
        assert len(taken) <= done + threads + 2
    assert most[0] <= threads


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller(threads):
    def work(i):
        if i == 5:
            raise ValueError("five")
        return i

    got = []
    with pytest.raises(ValueError, match="five"):
        got.extend(map_ordered(work, range(20), threads))
