"""Files appear whole or not at all, whatever interrupts their writing."""

import os

import pytest

from golfpack.base.files import write_atomically


@pytest.mark.parametrize("renamed", [False, True])
def test_an_interruption_is_passed_on_and_leaves_one_whole_file_at_most(
    tmp_path, monkeypatch, renamed
):
    path, replace = tmp_path / "file", os.replace

    def interrupted(source, target):
        if renamed:
            replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"data")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"data"] * renamed
