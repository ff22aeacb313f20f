"""Windows: every target exactly once, for every length around an edge, and what each one reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.eval.windows import lay_windows


@st.composite
def layouts(draw):
    window = draw(st.integers(1, 40))
    stride = draw(st.integers(1, window))
    k = draw(st.integers(0, 6))
    edges = [1, window - 1, window, window + 1, window + stride - 1]
    edges += [k * stride - 1, k * stride + 1, window + k * stride, draw(st.integers(1, 300))]
    return max(1, draw(st.sampled_from(edges))), window, stride


@given(layouts())
def test_every_target_is_scored_exactly_once(layout):
    targets, window, stride = layout
    windows = lay_windows(targets, window, stride)
    scored = [t for a, b in zip(windows.first, windows.stop, strict=True) for t in range(a, b)]
    assert scored == list(range(targets))
    assert windows.start[0] == windows.first[0] == 0
    assert (np.diff(windows.start) == stride).all()
    assert (windows.stop - windows.start)[:-1].tolist() == [window] * (len(windows) - 1)
    # Every target but the first window's has at least window - stride tokens of context.
    assert (windows.first - windows.start)[1:].tolist() == [window - stride] * (len(windows) - 1)


@given(layouts(), st.integers(1, 200))
def test_batches_are_windows_of_one_shape_in_order(layout, batch_tokens):
    windows = lay_windows(*layout)
    batches = list(windows.batches(batch_tokens))
    for name in ("start", "stop", "first"):
        joined = np.concatenate([getattr(b, name) for b in batches])
        assert joined.tolist() == getattr(windows, name).tolist()
    for b in batches:
        assert len(set((b.stop - b.start).tolist())) == len(set((b.stop - b.first).tolist())) == 1
        assert len(b) == 1 or len(b) * (b.stop[0] - b.start[0]) <= batch_tokens


def test_plain_is_the_stride_of_a_window():
    windows = lay_windows(10, 4, 4)
    assert windows.start.tolist() == windows.first.tolist() == [0, 4, 8]
    assert windows.stop.tolist() == [4, 8, 10]


@pytest.mark.parametrize(("targets", "window", "stride"), [(0, 4, 4), (9, 4, 5), (9, 4, 0)])
def test_impossible_windows(targets, window, stride):
    with pytest.raises(UsageError):
        lay_windows(targets, window, stride)
