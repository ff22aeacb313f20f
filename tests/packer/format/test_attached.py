"""The tokenizer inside an artifact: there and back, and every way its stream and entry can be wrong."""

import pytest
from artifact_sample import HEAD, small_parts

from golfpack.errors import CorruptError
from golfpack.packer.format.attached import MAX_TOKENIZER, TokenizerFile, tokenizer_parts
from golfpack.packer.format.container import assemble
from golfpack.packer.format.loader import loads
from golfpack.packer.format.reencode import encode_again

FILE = TokenizerFile("tokenizer.json", b'{"version":"1.0"}' * 50)
ENTRY, STREAM = tokenizer_parts(FILE)
PARTS = small_parts("rans")


def artifact(entry, stream):
    manifest, streams = PARTS
    return assemble(HEAD | manifest | entry, streams | stream)


def test_it_comes_back_and_changes_no_tensor():
    plain, with_one = loads(artifact({}, {})), loads(artifact(ENTRY, STREAM))
    assert (plain.tokenizer, with_one.tokenizer) == (None, FILE)
    for name, w in plain.weights().items():
        assert (with_one.weights()[name] == w).all()
    assert len(STREAM["tokenizer"]) < 100
    # All that is not weights counts as one: the sum over tensors stays exact.
    grown = with_one.container.overhead - plain.container.overhead
    assert grown == with_one.container.size - plain.container.size
    assert with_one.container.weight_streams == plain.container.streams


def test_encoding_again_keeps_it():
    blob = artifact(ENTRY, STREAM)
    assert encode_again(loads(blob)) == blob


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"name": None},
        {"bytes": len(FILE.data) - 1},
        {"bytes": len(FILE.data) + 1},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": MAX_TOKENIZER + 1},
        {"codec": "lzma"},
        {"codec": {"id": "magic"}},
        {"codec": {"id": "zlib", "level": 9}},
    ],
)
def test_entries_that_lie(change):
    entry = {"tokenizer": {**ENTRY["tokenizer"], **change}}
    with pytest.raises(CorruptError):
        loads(artifact(entry, STREAM))


def test_one_without_the_other():
    for entry, stream in ((ENTRY, {}), ({}, STREAM), ({"tokenizer": [1]}, STREAM)):
        with pytest.raises(CorruptError, match="disagree on a tokenizer"):
            loads(artifact(entry, stream))
    with pytest.raises(CorruptError):
        loads(artifact(ENTRY, {"tokenizer": STREAM["tokenizer"][:-1]}))
