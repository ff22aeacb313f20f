"""Where windows lie and which targets each of them scores.

Target i is tokens[i + 1], predicted from position i. A window reads the tokens at positions
[start, stop) and scores the targets [first, stop). The layout is the challenge's since 2026-04-01
(openai/parameter-golf, `eval_val_sliding`): windows start every `stride` tokens as long as there is
something left to score, the first scores all of its targets, and each later one those that the one
before it has not reached. Plain evaluation is the case stride = window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from golfpack.errors import UsageError


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows in stream order; their scored targets follow each other without gap or overlap.

    Attributes:
        start, stop: (n,) int64, the positions [start, stop) a window reads.
        first: (n,) int64, the first target it scores; the last one is stop - 1.
    """

    start: np.ndarray
    stop: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, part: slice | np.ndarray) -> "Windows":
        return Windows(self.start[part], self.stop[part], self.first[part])

    def batches(self, batch_tokens: int) -> Iterator["Windows"]:
        """Runs of windows of one length that score equally many targets, about `batch_tokens` long."""
        if not len(self):
            return
        length, scored = self.stop - self.start, self.stop - self.first
        changes = np.flatnonzero((np.diff(length) != 0) | (np.diff(scored) != 0)) + 1
        edges = [0, *changes.tolist(), len(self)]
        for begin, end in pairwise(edges):
            step = max(1, batch_tokens // int(length[begin]))
            for i in range(begin, end, step):
                yield self[i : min(i + step, end)]


def lay_windows(targets: int, window: int, stride: int) -> Windows:
    """Windows over a stream that score every target exactly once.

    Args:
        targets: targets of the stream, one fewer than its tokens.
        window: positions per window; the last window may be shorter.
        stride: targets that each window but the first scores, at most `window`.

    Raises:
        UsageError: no target, or a stride outside 1..window.
    """
    if targets < 1:
        raise UsageError("there is no token to score", "give a stream of at least 2 tokens")
    if not 1 <= stride <= window:
        raise UsageError(
            f"a stride of {stride} does not fit a window of {window}",
            "the stride is between 1 and the window: larger ones would leave targets out",
        )
    context = window - stride
    start = np.arange(0, max(1, targets - context), stride, dtype=np.int64)
    first = start + context
    first[0] = 0
    windows = Windows(start, np.minimum(start + window, targets), first)
    scored = windows.stop - windows.first
    assert scored.sum() == targets, "a target is lost or scored twice"
    assert (scored > 0).all(), "a window has nothing to score"
    return windows
