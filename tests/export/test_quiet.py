"""Fewer words, the same program."""

import pytest

from golfpack.export.quiet import quiet

BUNDLE = """
import os
import re

# --- golfpack/errors.py ---


class GolfpackError(Exception):
    def __init__(self, message, hint=None):
        super().__init__(message)


class UsageError(GolfpackError):
    pass


class CorruptError(GolfpackError):
    pass

# --- golfpack/base/convert.py ---


def require(holds, what, hint):
    if not holds:
        raise UsageError(what, hint)

# --- golfpack/packer/format/container.py ---


def guarded(x):
    if x < 0:
        raise CorruptError("below zero", "build it again")
    return x

# --- golfpack/packer/format/streams.py ---


class Codec:
    def __post_init__(self):
        require(self.level < 3, "too high", "lower it")

    def encode(self, data):
        return data

    def decode(self, data):
        return data


def unguarded(x):
    if x > 9:
        raise CorruptError("above nine")
    try:
        return int(x)
    except ValueError as e:
        raise CorruptError("no number") from e

# --- golfpack/eval/windows.py ---


class Mode:
    def __post_init__(self):
        require(self.window < 3, f"no window of {self.window}", "lower it")


def near(path):
    return re.escape(path)


def read(path):
    if not path:
        raise UsageError(f"there is no {path!r}", near(path))
    try:
        return os.stat(path)
    except OSError as e:
        raise UsageError("unreadable", "check it") from e


def main(x):
    return guarded(unguarded(Codec().decode(x)))


repr((main, read, Mode))
"""


@pytest.fixture(scope="module")
def space():
    found = {}
    exec(quiet(BUNDLE), found)
    return found


def test_what_a_user_gets_wrong_keeps_its_message(space):
    with pytest.raises(space["UsageError"], match="there is no ''"):
        space["read"]("")
    with pytest.raises(space["UsageError"], match=r"^unreadable$"):
        space["read"]("/nowhere/at/all")
    mode = space["Mode"]()
    mode.window = 7
    with pytest.raises(space["UsageError"], match="no window of 7"):
        mode.__post_init__()


def test_a_damaged_artifact_is_an_error_still(space):
    assert space["main"]("5") == 5
    with pytest.raises(space["CorruptError"]):
        space["main"](-1)
    with pytest.raises(ValueError, match="invalid literal"):
        space["main"]("five")


def test_hints_and_what_only_they_need_are_gone(space):
    text = quiet(BUNDLE)
    for gone in (
        "hint",
        "check it",
        "def near",
        "import re",
        "def encode",
        "too high",
        "above nine",
    ):
        assert gone not in text
    assert "def __post_init__" in text
