"""Sequence lengths by step, as people write them: `256@0,512@500,1024@2000`."""

import re

from golfpack.errors import UsageError

_PART = re.compile(r"(\d+)@(\d+)")
_EXAMPLE = "such as 256@0,512@500: 256 tokens from step 0 on, 512 from step 500 on"


def read_lengths(text: str) -> tuple[tuple[int, int], ...]:
    """(first step, length) of every part, in the order of their steps; steps count from 0.

    Raises:
        UsageError: a part is not LENGTH@STEP, a step is there twice, or nothing is said of step 0.
    """
    found: dict[int, int] = {}
    for part in filter(None, text.split(",")):
        match = _PART.fullmatch(part.strip())
        if match is None or int(match[1]) < 1:
            raise UsageError(
                f"seq_schedule has {part.strip()!r}, which is not LENGTH@STEP", _EXAMPLE
            )
        if int(match[2]) in found:
            raise UsageError(f"seq_schedule has two lengths for step {match[2]}", _EXAMPLE)
        found[int(match[2])] = int(match[1])
    if found and 0 not in found:
        raise UsageError(f"seq_schedule begins at step {min(found)}, not at 0", _EXAMPLE)
    return tuple(sorted(found.items()))
